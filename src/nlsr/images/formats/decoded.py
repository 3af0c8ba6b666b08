"""What every decoder gives, and the steps that several of them share. Knows no format."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from PIL import Image

from nlsr.images.formats import metadata, profiles

_RELATIVE_COLORIMETRIC = 1
_BLACK_POINT_COMPENSATION = 0x2000


CheckSize = Callable[[int, int], None]
"""Called with width and height before pixels are decoded; raises Refusal."""


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
    exif: bytes | None = None
    xmp: bytes | None = None
    linear: bool = False  # proportional to light, although no profile says so
    notes: list[str] = field(default_factory=list)


def start_of(file: BinaryIO, size: int) -> bytes:
    """The first bytes of a file, which is left at its start."""
    file.seek(0)
    head = file.read(size)
    file.seek(0)
    return head


def described(decoded: Decoded, image: Image.Image) -> Decoded:
    """`decoded` with what Pillow found beside the pixels."""
    info = image.info
    decoded.linear = info.get("gamma") == 1 and "srgb" not in info
    try:
        # Not the PNG class's own, which would first load pixels that a 16-bit PNG's metadata come without.
        exif = Image.Image.getexif(image)
    except Exception:  # Pillow has no error of its own for damaged EXIF; the picture is worth more than its EXIF
        decoded.notes.append("EXIF cannot be read: dropped")
        exif = Image.Exif()
    return with_metadata(decoded, exif, profile=info.get("icc_profile"), xmp=info.get("xmp"))


def with_metadata(decoded: Decoded, exif: Image.Exif, *, profile: object, xmp: object) -> Decoded:
    """`decoded` with orientation, profile, EXIF and XMP, as far as they can be read."""
    decoded.orientation = metadata.valid_orientation(exif.get(metadata.ORIENTATION))
    try:
        decoded.exif = metadata.upright_exif(exif)
    except Exception:  # as above
        decoded.notes.append("EXIF cannot be read: dropped")
    decoded.profile = profile if isinstance(profile, bytes) and len(profile) >= 128 else None
    decoded.xmp = metadata.upright_xmp(xmp) if isinstance(xmp, bytes) and xmp else None
    return decoded


def without_inks(decoded: Decoded) -> Decoded:
    """sRGB from CMYK samples (0 is no ink), at their own depth; the profile, which described the inks, is gone."""
    import imagecodecs

    if decoded.white not in (255, 65535):  # the conversion knows whole bytes only
        decoded.samples = np.rint(decoded.samples * (65535 / decoded.white)).astype(np.uint16)
        decoded.white = 65535.0
    profile, decoded.profile = decoded.profile, None
    inks = np.ascontiguousarray(decoded.samples[:, :, :4])
    if profile is not None:
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


def without_linear_light(decoded: Decoded) -> Decoded:
    """Values proportional to light, by their profile or else by `linear`, encoded with the sRGB curve.

    They become float32, so that no step of dark colours is lost; primaries and white stay those of the profile.
    """
    profile = decoded.profile
    if not (decoded.linear if profile is None else profiles.is_linear(profile)):
        return decoded
    if profile is not None:
        decoded.profile = profiles.with_srgb_curve(profile)
    colours = 3 if decoded.samples.shape[2] > 2 else 1
    samples = (decoded.samples / np.float32(decoded.white)).astype(np.float32, copy=False)
    samples[:, :, :colours] = profiles.srgb_encoded(samples[:, :, :colours])
    decoded.samples, decoded.white = samples, 1.0
    decoded.notes.append("linear values encoded with the sRGB curve")
    return decoded
