"""Image files behind one contract: `read` gives a Picture, `write` and `write_bands` save one.

Everything that is peculiar to files ends here: depth, layout, alpha, orientation, palettes, profiles, damage. The
formats themselves are in `formats`; this file knows paths, tensors and what is said to the user.
docs/formats.md says what each format keeps.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, NoReturn

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nlsr.errors import ImageError, NlsrError, ShapeError, TargetError, UsageError
from nlsr.files import followed, replacing
from nlsr.images.colour_space import ColourSpace
from nlsr.images.formats.decode import decode, looks_like_tga, sniff
from nlsr.images.formats.decoded import RAW_DATA, READING, Refusal
from nlsr.images.formats.encode import check_colours, encode, layout_of
from nlsr.images.formats.layout import Band
from nlsr.images.formats.quiet import quiet
from nlsr.images.picture import Picture

ENDINGS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WebP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".avif": "AVIF",
    ".jxl": "JPEG XL",
}
"""Format by lower-case ending, for reading and writing."""

READ_ENDINGS = (
    *(*ENDINGS, ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".apng", ".ico", ".tga"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpf"),
)
"""Lower-case endings by which a folder is searched for pictures; `read` itself goes by content."""

FOREIGN_ENDINGS = {
    **dict.fromkeys((".jxr", ".wdp", ".hdp"), "JPEG XR"),
    **dict.fromkeys((".exr",), "OpenEXR"),
    **dict.fromkeys((".hdr", ".rgbe"), "Radiance HDR"),
    **dict.fromkeys((".psd", ".psb"), "a Photoshop document"),
    **dict.fromkeys((".xcf",), "a GIMP document"),
    **dict.fromkeys((".svg", ".svgz"), "SVG, which has no pixels to enlarge"),
    **dict.fromkeys((".qoi",), "QOI"),
    **dict.fromkeys((".pcx",), "PCX"),
    **dict.fromkeys((".dds",), "DirectDraw"),
    **dict.fromkeys((".pfm",), "PFM"),
    **dict.fromkeys(
        (".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf", ".pef"),
        RAW_DATA,
    ),
}
"""Pictures that are not read, by lower-case ending, and what they are: a search of a folder counts them as failed."""

MAX_PIXELS = 200_000_000

# Sides and pixels beyond which the format's own headers, or the encoder, give up.
_MAX_SIDE = {"JPEG": 65_500, "WebP": 16_383, "AVIF": 32_768, "PNG": 2**31 - 1, "BMP": 2**31 - 1, "TIFF": 2**31 - 1}
_MAX_SIDE |= {"JPEG XL": 2**30 - 1}
_MAX_PIXELS = {"AVIF": 2**28, "BMP": 10**9}
_WITHOUT_ALPHA = ("JPEG", "BMP")

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Header:
    """What is known of an image file before its pixels are decoded.

    Args:
        height, width: of the picture as it is seen, upright.
        alpha: whether there is a channel of opacity, opaque as it may be.
        depth: bits per sample, as a Picture has them.
        reading: bytes that `read` takes at most, the picture that it gives among them.
    """

    height: int
    width: int
    alpha: bool
    depth: int
    reading: int


def is_picture(name: str) -> bool:
    """Whether a search takes a file of this name, though it may be one of a format that is not read, so that nobody
    misses it unawares. What is hidden is left out."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in (*READ_ENDINGS, *FOREIGN_ENDINGS)


def read(path: PathLike, *, max_pixels: int = MAX_PIXELS, check: Callable[[Header], object] | None = None) -> Picture:
    """Read the first image of a file, recognised by its content; docs/formats.md lists the formats.

    The pixels are float32 and upright; round(pixels * 255), or 65535, gives the stored integers back. CMYK becomes
    sRGB, and values proportional to light are encoded with the sRGB curve, which the profile then says; everything
    else stays in the file's own RGB. Takes as much memory as its `Header` says. HEIC needs the extra `heif`.

    Args:
        check: called before pixels are decoded; what it raises is raised.
    Raises: ImageError, in one line, for a file that is missing, unreadable, no image, damaged or cut short, larger
        than `max_pixels`, or holds NaN, and where the extra is missing.
    """
    shown = one_line(path)

    def check_size(
        width: int, height: int, *, alpha: bool = False, depth: int = 8, turned: bool = False, reading: int = READING
    ) -> None:
        if width < 1 or height < 1:
            raise Refusal(f"expected at least one pixel, got {width}×{height}; get the file again")
        if width * height > max_pixels:
            raise Refusal(
                f"has {width}×{height} pixels ({width * height / 1e6:.1f} million), the limit is"
                f" {max_pixels / 1e6:.6g} million; raise it with `max_pixels` if you trust the file"
            )
        if check is not None:
            upright = (width, height) if turned else (height, width)
            check(Header(*upright, alpha, depth, reading * width * height))

    with quiet, _opened(path) as file:
        format = _recognised(file, shown)
        try:
            decoded = decode(file, format, check_size)
            samples = _turned(decoded.samples, decoded.orientation)
            colours = 3 if samples.shape[2] > 2 else 1
            pixels = _as_tensor(samples[:, :, :colours], decoded.white)
            alpha = _as_tensor(samples[:, :, colours:], decoded.white) if samples.shape[2] in (2, 4) else None
        except Refusal as refusal:
            raise ImageError(f"{shown}: {refusal}") from refusal
        except NlsrError:  # of `check`
            raise
        except MemoryError as error:
            raise ImageError(f"{shown}: does not fit in memory; close other programs or make it smaller") from error
        except Exception as error:  # decoders raise every kind of error for damaged data
            raise ImageError(
                f"{shown}: expected a whole {format} image, got damaged or truncated data"
                f" ({_reason(error)}); get the file again, or open it in an image editor and save it anew"
            ) from error
    return Picture(
        pixels=pixels.expand(1, 3, -1, -1),
        alpha=alpha,
        depth=decoded.depth,
        grey=colours == 1,
        profile=decoded.profile,
        space=decoded.space,
        exif=decoded.exif,
        xmp=decoded.xmp,
        iptc=decoded.iptc,
        resolution=decoded.resolution,
        text=decoded.text,
        notes=tuple(decoded.notes),
    )


class _Seen(NlsrError):
    def __init__(self, header: Header) -> None:
        super().__init__("seen")
        self.header = header


def read_header(path: PathLike, *, max_pixels: int = MAX_PIXELS) -> Header:
    """What a file is, before its pixels are decoded. Raises: ImageError, as `read`."""

    def stop(header: Header) -> None:
        raise _Seen(header)

    try:
        read(path, max_pixels=max_pixels, check=stop)
    except _Seen as seen:
        return seen.header
    raise AssertionError("a file was read without its header being checked")


def write(
    path: PathLike,
    picture: Picture,
    *,
    quality: int | None = None,
    overwrite: bool = False,
    format: str | None = None,
) -> tuple[str, ...]:
    """Write a picture, completely or not at all: `write_bands` with the whole picture as the only band.

    An integer tensor is written with its own depth, floating point with `picture.depth`.
    Returns, raises: as `write_bands`.
    """
    _check_picture(picture)
    depth = {torch.uint8: 8, torch.uint16: 16}.get(picture.pixels.dtype, picture.depth)
    height, width = picture.pixels.shape[2:]
    return write_bands(
        path,
        replace(picture, depth=depth),
        height,
        width,
        [(picture.pixels[0], None if picture.alpha is None else picture.alpha[0])],
        quality=quality,
        overwrite=overwrite,
        format=format,
    )


def write_bands(
    path: PathLike,
    like: Picture,
    height: int,
    width: int,
    bands: Iterable[Band],
    *,
    quality: int | None = None,
    overwrite: bool = False,
    format: str | None = None,
) -> tuple[str, ...]:
    """Write rows as they are computed, from top to bottom; the file has its name only when it is complete.

    Depth, grey, meaning of the colours and metadata are those of `like`, where the format can hold them, as
    docs/formats.md says. Float pixels are clipped to [0, 1] and rounded to nearest.
    PNG and TIFF hold a few megabytes beside the band in hand; `streams` and `encoder_bytes` say what others need.

    Args:
        like: the picture that was enlarged, for all but its pixels; with alpha if the bands have it.
        bands: colours (3, rows, width) and alpha (1, rows, width), or None without: floating point in [0, 1], uint8
            or uint16, on any device, of any number of rows. A band may be changed once the next one is asked for.
        quality: 1 to 100 for JPEG (default 95), WebP and JPEG XL (95; 100 is lossless) and AVIF (90); the others are
            lossless, and so is JPEG XL of more than 8 bits or of other colours than sRGB.
        overwrite: replace a file that is already there; until the last moment it stays as it was.
        format: one of PNG, JPEG, WebP, TIFF, AVIF, BMP and JPEG XL (jxl), in any case; default: by the path's ending.
    Returns: what of the picture the format could not hold, each in a note.
    Raises: ImageError, in one line, as `check_target` does, for NaN, and for a full disk; UsageError for a
        quality out of range and an unknown format; ShapeError for bands of another shape or number of rows; and
        whatever `bands` raises.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"expected a quality from 1 to 100, got {quality}")
    alpha = like.alpha is not None
    format = check_target(
        path, height=height, width=width, alpha=alpha, space=like.space, overwrite=overwrite, format=format
    )
    shown = one_line(path)
    try:
        layout = layout_of(format, like, height, width)
        with replacing(path) as file:
            encode(file, format, layout, _relayed(bands), quality)
        return layout.notes
    except _BandsFailed as failed:
        raise failed.error from None
    except NlsrError:
        raise
    except Refusal as refusal:
        raise ImageError(f"{shown}: {refusal}") from refusal
    except MemoryError as error:
        raise ImageError(f"{shown}: writing {format} needs more memory than there is; write PNG or TIFF") from error
    except OSError as error:
        _raise_unwritable(shown, error)
    except Exception as error:  # encoders raise every kind of error for what they cannot hold
        raise ImageError(f"{shown}: cannot be written as {format} ({_reason(error)}); try PNG") from error


def check_target(
    path: PathLike,
    *,
    height: int,
    width: int,
    alpha: bool = False,
    space: ColourSpace | None = None,
    overwrite: bool = False,
    format: str | None = None,
) -> str:
    """The format in which an image of this size can be written to a path; to be asked before a long computation.

    Args:
        space: that of the picture.
        format: as for `write_bands`; without it the path's ending decides.
    Raises: UsageError for an unknown format; TargetError for an unknown ending, a missing or unwritable folder, a
        directory or a special file in the way, and an existing file without `overwrite`; ImageError for a size, an
        alpha or colours (PQ, HLG) that the format cannot hold.
    """
    format = check_format(path, height=height, width=width, alpha=alpha, space=space, format=format)
    _check_place(os.fsdecode(path), one_line(path), overwrite=overwrite)
    return format


def check_format(
    path: PathLike,
    *,
    height: int,
    width: int,
    alpha: bool = False,
    space: ColourSpace | None = None,
    format: str | None = None,
) -> str:
    """The format in which an image of this size is written to a path, wherever that is: a part of `check_target`.

    Raises: as that does, for formats.
    """
    shown = one_line(path)
    name = os.fsdecode(path)
    format = _format_of_ending(name, shown) if format is None else format_named(format)
    if max(height, width) > _MAX_SIDE[format]:
        raise ImageError(
            f"{shown}: {format} holds at most {_MAX_SIDE[format]} pixels per side, got {width}×{height};"
            " write PNG or TIFF"
        )
    if height * width > _MAX_PIXELS.get(format, height * width):
        raise ImageError(
            f"{shown}: {format} holds at most {_MAX_PIXELS[format] / 1e6:.0f} million pixels, got {width}×{height};"
            " write PNG or TIFF"
        )
    if alpha and format in _WITHOUT_ALPHA:
        raise ImageError(
            f"{shown}: {format} cannot hold transparency; write PNG, WebP, TIFF, AVIF or JPEG XL, or choose a colour"
            " behind the picture with `background`"
        )
    try:
        check_colours(format, space)
    except Refusal as refusal:
        raise ImageError(f"{shown}: {refusal}") from refusal
    return format


def _check_place(name: str, shown: str, *, overwrite: bool) -> None:
    try:
        real = followed(name)
        folder = os.path.dirname(real) or os.curdir
        if not os.path.isdir(folder):
            what = "is not a folder" if os.path.lexists(folder) else "does not exist"
            raise TargetError(f"{shown}: its folder {what}; create it")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise TargetError(f"{shown}: its folder is not writable; choose another or change its permissions")
        mode = os.stat(real).st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        _raise_unwritable(shown, error)
    if not stat.S_ISREG(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "a device or a pipe"
        raise TargetError(f"{shown}: expected a file name, got {what}; choose another name")
    if not overwrite:
        raise TargetError(f"{shown}: exists already; choose another name or allow it with `overwrite`")


def holds_alpha(format: str) -> bool:
    """Whether a format, as `check_target` names it, can hold transparency."""
    return format not in _WITHOUT_ALPHA


def format_of(path: PathLike) -> str | None:
    """The format of an image file, by its content; None if it is no image or cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            return None
        with open(path, "rb") as file:
            return sniff(file.read(64))
    except (OSError, ValueError):
        return None


def format_named(name: str) -> str:
    """The format that a user calls by its name or by an ending, in any case: 'JPEG' for 'jpg'.

    Raises: UsageError for a format that is not written.
    """
    named = ENDINGS | {"." + format.lower(): format for format in ENDINGS.values()}
    format = named.get("." + name.lower().removeprefix("."))
    if format is None:
        formats = ", ".join(dict.fromkeys(ENDINGS.values()))
        raise UsageError(f"expected a format among {formats}, got {one_line(name)}")
    return format


def one_line(path: PathLike) -> str:
    """A path as it stands in a message: newlines, control characters and undecodable bytes are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in os.fsdecode(path))


class _BandsFailed(Exception):
    """Carries what computing the bands raised past the explanations of what writing raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _relayed(bands: Iterable[Band]) -> Iterator[Band]:
    try:
        yield from bands
    except Exception as error:
        raise _BandsFailed(error) from error


def _format_of_ending(name: str, shown: str) -> str:
    ending = os.path.splitext(name)[1].lower()
    if ending not in ENDINGS:
        raise TargetError(f"{shown}: expected an ending among {' '.join(ENDINGS)}, got {one_line(ending) or 'none'}")
    return ENDINGS[ending]


@contextlib.contextmanager
def _opened(path: PathLike) -> Iterator[BinaryIO]:
    shown = one_line(path)
    try:
        mode = os.stat(path).st_mode  # before opening, which would wait for ever at a pipe
        if stat.S_ISDIR(mode):
            raise IsADirectoryError
        if not stat.S_ISREG(mode):
            raise ImageError(f"{shown}: expected an image file, got a device or a pipe; save it to a file first")
        file = open(path, "rb")  # noqa: SIM115 - closed below, where its own errors are not taken for the caller's
    except FileNotFoundError as error:
        raise ImageError(f"{shown}: expected an image file, but there is none; check the path") from error
    except IsADirectoryError as error:
        raise ImageError(f"{shown}: expected an image file, got a directory; name a file in it") from error
    except PermissionError as error:
        raise ImageError(f"{shown}: may not be read; change its permissions") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{shown}: cannot be opened ({_reason(error)}); check the path") from error
    with file:
        yield file


def _recognised(file: BinaryIO, shown: str) -> str:
    try:
        head = file.read(64)
        file.seek(0)
    except OSError as error:
        raise ImageError(f"{shown}: cannot be read ({_reason(error)}); check the disk") from error
    formats = "PNG, JPEG, JPEG XL, JPEG 2000, WebP, TIFF, AVIF, HEIC, BMP, GIF, ICO, PNM or TGA"
    if not head:
        raise ImageError(f"{shown}: expected {formats}, got an empty file; get it again")
    format, ending = sniff(head), os.path.splitext(shown)[1].lower()
    if format is None and ending == ".tga" and looks_like_tga(head):
        format = "TGA"
    # Many cameras keep raw data in a TIFF, whose first page is a thumbnail.
    if format is None or (format == "TIFF" and FOREIGN_ENDINGS.get(ending) == RAW_DATA):
        found = next((name for start, name in _FOREIGN if start in head[:16]), None)
        found = found or FOREIGN_ENDINGS.get(ending, "something else")
        raise ImageError(f"{shown}: expected {formats}, got {found}; convert it to one of them")
    return format


_FOREIGN = [
    (b"%PDF", "PDF"),
    (b"PK\x03\x04", "a zip archive"),
]


def _turned(samples: np.ndarray, orientation: int) -> np.ndarray:
    """The samples (height, width, channels) upright, as a view; `orientation` as EXIF counts it."""
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    down, right = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}[
        orientation
    ]
    return samples[::down, ::right]


def _as_tensor(samples: np.ndarray, white: float) -> Float[Tensor, "1 c h w"]:
    """float32 in [0, 1], channels first; division rather than a product, which would be off by a rounding error."""
    values = np.empty((1, samples.shape[2], *samples.shape[:2]), np.float32)
    np.divide(samples.transpose(2, 0, 1)[None], np.float32(white), out=values, dtype=np.float32)
    return torch.from_numpy(values)


def _reason(error: BaseException) -> str:
    """What a library said, on one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return one_line(" ".join(text.split()))[:200]


def _check_picture(picture: Picture) -> None:
    pixels, alpha = picture.pixels, picture.alpha
    if pixels.ndim != 4 or tuple(pixels.shape[:2]) != (1, 3) or 0 in pixels.shape:
        raise ShapeError(f"expected pixels (1, 3, height, width), got {tuple(pixels.shape)}; write images one by one")
    if alpha is not None and tuple(alpha.shape) != (1, 1, *pixels.shape[2:]):
        raise ShapeError(f"expected alpha {(1, 1, *pixels.shape[2:])} as the pixels, got {tuple(alpha.shape)}")
    for tensor in (pixels, alpha):
        if tensor is not None and not (tensor.is_floating_point() or tensor.dtype in (torch.uint8, torch.uint16)):
            raise ShapeError(f"expected floating-point, uint8 or uint16 pixels, got {tensor.dtype}; convert them")
    if picture.depth not in (8, 16, 32):
        raise ShapeError(f"expected a depth of 8, 16 or 32 bits, got {picture.depth}")


def _raise_unwritable(shown: str, error: Exception) -> NoReturn:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise ImageError(f"{shown}: the disk is full; free some space or choose another folder") from error
    raise ImageError(f"{shown}: cannot be written ({_reason(error)}); choose another name or folder") from error
