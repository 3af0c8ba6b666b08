"""From a picture to the bytes of an image file. Knows nothing of paths.

PNG and TIFF are written as the rows come, so that a result of hundreds of megapixels never stands in memory; the other
formats are Pillow's, which wants the whole picture. Equal pictures give equal bytes.
"""

import io
from collections.abc import Callable, Iterable
from typing import BinaryIO

from PIL import Image

from nlsr.images.formats.decoded import Refusal
from nlsr.images.formats.encode_png import write_png
from nlsr.images.formats.encode_tiff import write_tiff
from nlsr.images.formats.layout import Band, Layout, Strip, cut_into_strips
from nlsr.images.formats.quiet import quiet
from nlsr.images.picture import Picture

DEFAULT_QUALITY = {"JPEG": 95, "WebP": 95, "AVIF": 90}

_DEEPEST = {"PNG": 16, "TIFF": 32}
_STREAMING: dict[str, Callable[[BinaryIO, Layout, Iterable[Strip]], None]] = {"PNG": write_png, "TIFF": write_tiff}

# Most that was measured per pixel (RGB with alpha, any quality), and a quarter more.
_BYTES_PER_PIXEL = {"JPEG": 8, "WebP": 53, "AVIF": 75, "BMP": 8}
# Strips in several copies, and a handful of rows where a row is longer than a strip should be.
_BYTES_IN_STRIPS, _BYTES_PER_COLUMN = 2**25, 2**9


def streams(format: str) -> bool:
    """Whether a format is written as the rows come; the others collect the whole picture in 8 bits."""
    return format in _STREAMING


def encoder_bytes(format: str, height: int, width: int) -> int:
    """Memory in bytes that writing takes at most, beside the band in hand; to be asked before a long computation."""
    return _BYTES_IN_STRIPS + _BYTES_PER_COLUMN * width + _BYTES_PER_PIXEL.get(format, 0) * height * width


def layout_of(format: str, picture: Picture, height: int, width: int) -> Layout:
    """How a format stores a picture like this one, of another size."""
    colour_space = b"GRAY" if picture.grey else b"RGB "
    return Layout(
        height=height,
        width=width,
        depth=min(picture.depth, _DEEPEST.get(format, 8)),
        grey=picture.grey,
        alpha=picture.alpha is not None,
        profile=picture.profile if picture.profile and picture.profile[16:20] == colour_space else None,
        exif=picture.exif,
        xmp=picture.xmp,
    )


def encode(file: BinaryIO, format: str, layout: Layout, bands: Iterable[Band], quality: int | None) -> None:
    """Write the rows of all bands to an open file.

    Raises: Refusal for values and metadata that the format cannot hold, ShapeError for bands that do not fit.
    """
    strips = cut_into_strips(bands, layout)
    if format in _STREAMING:
        _STREAMING[format](file, layout, strips)
        return
    options = _pillow_options(format, layout, quality or DEFAULT_QUALITY.get(format, 0))
    image = Image.new({1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[layout.channels], (layout.width, layout.height))
    top = 0
    for strip in strips:
        rows = strip.samples(layout)
        image.paste(Image.fromarray(rows[:, :, 0] if layout.channels == 1 else rows), (0, top))
        top += len(rows)
    buffer = io.BytesIO()  # Pillow reports a full disk as an encoder's failure; Python says what it is
    with quiet:
        image.save(buffer, **options)  # type: ignore[arg-type]
    file.write(buffer.getbuffer())


def _pillow_options(format: str, layout: Layout, quality: int) -> dict[str, object]:
    options: dict[str, object] = {"format": format.upper()}
    if format != "BMP":
        options |= {"quality": quality, "icc_profile": layout.profile or b""}
        if layout.exif:
            options["exif"] = b"Exif\0\0" + layout.exif
        if layout.xmp:
            options["xmp"] = layout.xmp
    if format == "JPEG":
        options["subsampling"] = "4:4:4" if quality >= 90 else "4:2:0"
        for name, limit in (("exif", 65533), ("xmp", 65504)):
            size = len(options.get(name, b""))  # type: ignore[arg-type]
            if size > limit:
                raise Refusal(f"JPEG holds at most {limit} bytes of {name.upper()}, got {size}; write PNG, or strip it")
    if format == "WebP":
        options |= {"lossless": quality == 100, "exact": True, "method": 4}
    if format == "AVIF":
        grey = "4:0:0" if layout.channels == 1 else None
        options["subsampling"] = grey or ("4:4:4" if quality >= 90 else "4:2:0")
    return options
