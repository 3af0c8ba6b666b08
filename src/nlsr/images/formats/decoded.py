"""What every decoder gives, and the steps that several of them share. Knows no format but by name."""

from dataclasses import dataclass, field, replace
from typing import BinaryIO, Protocol

import numpy as np
from PIL import Image

from nlsr.images.colour_space import SRGB_CURVE, ColourSpace, srgb_encoded
from nlsr.images.formats import metadata, profiles
from nlsr.images.formats.meaning import Claims, decide
from nlsr.images.formats.metadata import Resolution, Text

_RELATIVE_COLORIMETRIC = 1
_BLACK_POINT_COMPENSATION = 0x2000

RAW_DATA = "the raw data of a camera"

READING = 19
"""Bytes per pixel that are taken while a picture is read, unless its decoder says otherwise: 8-bit samples, and the
floating-point pixels that they become; measured, of which WebP takes most."""


class CheckSize(Protocol):
    """Called before pixels are decoded with what the header says of them."""

    def __call__(
        self,
        width: int,
        height: int,
        *,
        alpha: bool = False,
        depth: int = 8,
        turned: bool = False,
        reading: int = READING,
    ) -> None:
        """
        Args:
            alpha: whether there is a channel of opacity, opaque as it may be.
            depth: bits per sample, as `Decoded` has them.
            turned: whether the picture lies on its side, which exchanges width and height.
            reading: bytes per pixel that are taken until the picture is read.
        Raises: Refusal, and whatever the caller's own check raises.
        """


class Refusal(Exception):
    """What was expected, what came and what to do, without the path; becomes an ImageError."""


@dataclass
class Decoded:
    """Samples (height, width, channels) as stored, 1 to 4 channels: grey or RGB, alpha last; `white` is their one."""

    samples: np.ndarray
    white: float
    depth: int
    orientation: int = 1
    profile: bytes | None = None
    space: ColourSpace | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    resolution: Resolution | None = None
    text: tuple[Text, ...] = ()
    notes: list[str] = field(default_factory=list)


@dataclass
class Beside:
    """What a file says beside its pixels, unchecked.

    Args:
        exif: a TIFF structure, with or without the prefix of JPEG.
        resolution: by the container itself, which goes before EXIF.
        upright: the pixels were turned already.
    """

    claims: Claims = field(default_factory=Claims)
    exif: bytes | Image.Exif | None = None
    xmp: object = None
    iptc: bytes | None = None
    resolution: Resolution | None = None
    text: list[Text] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    upright: bool = False


def start_of(file: BinaryIO, size: int) -> bytes:
    """The first bytes of a file, which is left at its start."""
    file.seek(0)
    head = file.read(size)
    file.seek(0)
    return head


def lies_on_its_side(exif: object) -> bool:
    """Whether EXIF says so, as far as it can be read; asked before pixels are decoded."""
    header = Image.Exif()
    try:
        header.load(exif or b"")  # type: ignore[arg-type]
        return metadata.valid_orientation(header.get(metadata.ORIENTATION)) >= 5
    except Exception:  # Pillow has no error of its own for damaged EXIF
        return False


def described(decoded: Decoded, beside: Beside, format: str) -> Decoded:
    """`decoded` with what its file says beside the pixels, as far as it can be read, and what its values mean.

    CMYK must have become RGB already, and a profile that described it must be gone.
    """
    decoded.notes += beside.notes
    exif = _loaded(beside.exif, decoded.notes)
    xmp = beside.xmp if isinstance(beside.xmp, bytes) and beside.xmp else None
    if not beside.upright and metadata.ORIENTATION in exif:
        decoded.orientation = metadata.valid_orientation(exif[metadata.ORIENTATION])
    elif not beside.upright and xmp:
        decoded.orientation = metadata.orientation_of_xmp(xmp)
    claims = beside.claims
    try:
        if exif:
            space, index = metadata.colours_of_exif(exif)
            claims = replace(claims, exif_space=space, exif_index=index)
        decoded.exif = metadata.upright_exif(exif)
    except Exception:  # Pillow has no error of its own for damaged EXIF; the picture is worth more than its EXIF
        decoded.notes.append("EXIF cannot be read: dropped")
    decoded.resolution = _resolution(beside.resolution or metadata.resolution_of_tags(exif), decoded)
    decoded.xmp = metadata.upright_xmp(xmp) if xmp else None
    decoded.iptc, decoded.text = beside.iptc or None, tuple(beside.text)
    grey = decoded.samples.shape[2] < 3
    decoded.profile, decoded.space, notes = decide(claims, format, grey=grey)
    decoded.notes += notes
    return _without_linear_light(decoded)


def _loaded(exif: bytes | Image.Exif | None, notes: list[str]) -> Image.Exif:
    if isinstance(exif, Image.Exif):
        return exif
    loaded = Image.Exif()
    try:
        loaded.load(exif or b"")
    except Exception:  # as above
        notes.append("EXIF cannot be read: dropped")
        return Image.Exif()
    return loaded


def _resolution(resolution: Resolution | None, decoded: Decoded) -> Resolution | None:
    """The resolution of the upright picture; None, with a note, for what makes no sense."""
    if resolution is None:
        return None
    if not metadata.makes_sense(resolution):
        decoded.notes.append("resolution of {:g}×{:g} dots per inch makes no sense: dropped".format(*resolution))
        return None
    return resolution[::-1] if decoded.orientation >= 5 else resolution


def without_inks(decoded: Decoded, profile: object) -> Decoded:
    """sRGB from CMYK samples (0 is no ink), at their own depth, through the profile that described the inks."""
    import imagecodecs

    if decoded.white not in (255, 65535):  # the conversion knows whole bytes only
        decoded.samples = np.rint(decoded.samples * (65535 / decoded.white)).astype(np.uint16)
        decoded.white = 65535.0
    inks = np.ascontiguousarray(decoded.samples[:, :, :4])
    if isinstance(profile, bytes) and profile:
        try:
            decoded.samples = imagecodecs.cms_transform(
                inks,
                profile,
                imagecodecs.cms_profile("srgb"),
                colorspace="cmyk",
                outcolorspace="rgb",
                intent=_RELATIVE_COLORIMETRIC,
                flags=_BLACK_POINT_COMPENSATION,
            )
            decoded.notes.append("CMYK converted to sRGB through its profile")
            return decoded
        except (imagecodecs.CmsError, ValueError):
            decoded.notes.append("CMYK converted to sRGB without its profile, which cannot be used")
    else:
        decoded.notes.append("CMYK without a profile converted to sRGB by plain arithmetic")
    light = 1 - inks.astype(np.float32) / np.float32(decoded.white)
    decoded.samples = np.rint(light[:, :, :3] * light[:, :, 3:] * np.float32(decoded.white)).astype(inks.dtype)
    return decoded


def _without_linear_light(decoded: Decoded) -> Decoded:
    """Values proportional to light, in whatever way the file says it, encoded with the sRGB curve.

    They become float32, so that no step of dark colours is lost; primaries and white stay as they are.
    """
    profile, space = decoded.profile, decoded.space
    if profile is not None and profiles.is_linear(profile):
        decoded.profile = profiles.with_srgb_curve(profile)
    elif space is not None and space.is_linear:
        decoded.space = ColourSpace(space.primaries, SRGB_CURVE)
    else:
        return decoded
    colours = 3 if decoded.samples.shape[2] > 2 else 1
    samples = (decoded.samples / np.float32(decoded.white)).astype(np.float32, copy=False)
    samples[:, :, :colours] = srgb_encoded(samples[:, :, :colours])
    decoded.samples, decoded.white = samples, 1.0
    decoded.notes.append("linear values encoded with the sRGB curve")
    return decoded
