"""From a picture to the bytes of an image file. Knows nothing of paths.

PNG and TIFF are written as the rows come, so that a result of hundreds of megapixels never stands in memory; the other
formats are those of libraries, which want the whole picture. Equal pictures give equal bytes.
"""

import io
import struct
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from nlsr.images.colour_space import SRGB_CURVE, ColourSpace
from nlsr.images.formats import metadata
from nlsr.images.formats.boxes import with_items
from nlsr.images.formats.decoded import Refusal
from nlsr.images.formats.encode_png import write_png
from nlsr.images.formats.encode_tiff import write_tiff
from nlsr.images.formats.jpeg_xl import jpeg_xl
from nlsr.images.formats.layout import Band, FileLayout, Strip, cut_into_strips, in_srgb
from nlsr.images.formats.meaning import can_say, said
from nlsr.images.formats.quiet import quiet
from nlsr.images.picture import Picture

DEFAULT_QUALITY = {"JPEG": 95, "WebP": 95, "AVIF": 90, "JPEG XL": 95}

_DEEPEST = {"PNG": 16, "TIFF": 32, "AVIF": 16, "JPEG XL": 16}
_AVIF_BITS = {8: 8, 16: 10}
_STREAMING: dict[str, Callable[[BinaryIO, FileLayout, Iterable[Strip]], None]] = {"PNG": write_png, "TIFF": write_tiff}

_EVERYTHING = {"EXIF", "XMP", "IPTC", "resolution", "text"}
_PLACES = {
    "PNG": _EVERYTHING,
    "TIFF": _EVERYTHING - {"text"},
    "JPEG": _EVERYTHING - {"text"},  # but for a comment
    "WebP": {"EXIF", "XMP", "resolution"},
    "AVIF": {"EXIF", "XMP", "resolution"},
    "JPEG XL": {"EXIF", "XMP", "resolution"},
    "BMP": {"resolution"},
}
"""Kinds of metadata by format; a resolution stands in EXIF where a format has no field for it."""
_WITHOUT_GREY = ("WebP",)
_SEGMENT = 65533
"""Bytes of a segment of JPEG."""
_JPEG_LIMITS = {"EXIF": _SEGMENT - 6, "XMP": _SEGMENT - 29}

# Most that was measured per pixel (RGB with alpha, any quality), and a quarter more.
_BYTES_PER_PIXEL = {"JPEG": 8, "WebP": 53, "AVIF": 75, "BMP": 8, "JPEG XL": 100}
# Strips in several copies, and a handful of rows where a row is longer than a strip should be.
_BYTES_IN_STRIPS, _BYTES_PER_COLUMN = 2**25, 2**9


def streams(format: str) -> bool:
    """Whether a format is written as the rows come; the others collect the whole picture in 8 bits."""
    return format in _STREAMING


def encoder_bytes(format: str, height: int, width: int) -> int:
    """Memory in bytes that writing takes at most, beside the band in hand; to be asked before a long computation."""
    return _BYTES_IN_STRIPS + _BYTES_PER_COLUMN * width + _BYTES_PER_PIXEL.get(format, 0) * height * width


def layout_of(format: str, picture: Picture, height: int, width: int) -> FileLayout:
    """How a format stores a picture like this one, of another size; its colours must pass `check_colours`."""
    grey = picture.grey and format not in _WITHOUT_GREY
    notes: list[str] = []
    profile, space, source = said(format, picture.profile, picture.space, grey=grey)
    if source is not None:
        source = _usable(source, format, grey, notes)
    elif picture.profile and profile is None:
        notes.append(f"no place in {format} for an ICC profile of other channels: dropped")
    beside = _beside(format, picture, notes)
    return FileLayout(
        height=height,
        width=width,
        depth=min(picture.depth, _DEEPEST.get(format, 8)),
        grey=grey,
        alpha=picture.alpha is not None,
        profile=profile,
        space=space,
        converted_from=source,
        notes=tuple(notes),
        **beside,
    )


def check_colours(format: str, space: ColourSpace | None) -> None:
    """Raises: Refusal for PQ and HLG in a format that cannot say them."""
    if not can_say(format, space):
        raise Refusal(
            f"{format} cannot say what {space} values mean; write PNG, AVIF or JPEG XL, or bring them to standard "
            "range with `tone_map`"
        )


def _usable(profile: bytes, format: str, grey: bool, notes: list[str]) -> bytes | None:
    """A profile that values can be converted through; the file says nothing of them either way."""
    import imagecodecs

    try:
        in_srgb(np.zeros((1, 1, 1 if grey else 3), np.uint16), profile)
    except (imagecodecs.CmsError, ValueError):
        notes.append(f"no place in {format} for an ICC profile, and it cannot be used: dropped")
        return None
    notes.append(f"no place in {format} for what colours mean: converted to sRGB")
    return profile


def _beside(format: str, picture: Picture, notes: list[str]) -> dict[str, Any]:
    """The metadata for which a format has a place; a note tells of the rest."""
    values = {"EXIF": picture.exif, "XMP": picture.xmp, "IPTC": picture.iptc}
    values |= {"resolution": picture.resolution, "text": picture.text}  # type: ignore[dict-item]
    lost = [kind for kind, value in values.items() if value and kind not in _PLACES[format]]
    text = picture.text
    if format == "JPEG":
        text = tuple(entry for entry in text if entry[0] == metadata.COMMENT)
        others = [keyword for keyword, _ in picture.text if keyword != metadata.COMMENT]
        lost = [kind for kind in lost if kind != "text"] + (["text"] if others else [])
        for kind, limit in _JPEG_LIMITS.items():
            if len(values[kind] or b"") > limit:  # type: ignore[arg-type]
                lost.append(f"{kind} of {len(values[kind])} bytes")  # type: ignore[arg-type]
                values[kind] = None
    if lost:
        notes.append(f"no place in {format} for {', '.join(lost)}: dropped")
    kept = {kind: value if kind in _PLACES[format] else None for kind, value in values.items()}
    exif = kept["EXIF"]
    if format in ("WebP", "AVIF", "JPEG XL") or (exif and format != "TIFF"):
        exif = metadata.with_resolution(picture.exif, picture.resolution)
    return {
        "exif": exif,
        "xmp": kept["XMP"],
        "iptc": kept["IPTC"],
        "resolution": kept["resolution"],
        "text": text if format in ("PNG", "JPEG") else (),
    }


def encode(file: BinaryIO, format: str, layout: FileLayout, bands: Iterable[Band], quality: int | None) -> None:
    """Write the rows of all bands to an open file.

    Raises: Refusal for values that the format cannot hold, ShapeError for bands that do not fit.
    """
    strips = cut_into_strips(bands, layout)
    quality = quality or DEFAULT_QUALITY.get(format, 0)
    if format in _STREAMING:
        _STREAMING[format](file, layout, strips)
    elif format == "AVIF":
        file.write(_avif(_collected(strips, layout), layout, quality))
    elif format == "JPEG XL":
        file.write(jpeg_xl(_collected(strips, layout), layout, quality))
    else:
        file.write(_with_pillow(format, strips, layout, quality))


def _collected(strips: Iterable[Strip], layout: FileLayout) -> np.ndarray:
    """The samples of the whole picture (height, width, channels)."""
    samples = np.empty((layout.height, layout.width, layout.channels), layout.dtype)
    top = 0
    for strip in strips:
        rows = strip.samples(layout)
        samples[top : top + len(rows)] = rows
        top += len(rows)
    return samples


def _with_pillow(format: str, strips: Iterable[Strip], layout: FileLayout, quality: int) -> memoryview:
    options = _pillow_options(format, layout, quality)
    image = Image.new({1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[layout.channels], (layout.width, layout.height))
    top = 0
    for strip in strips:
        rows = strip.samples(layout)
        image.paste(Image.fromarray(rows[:, :, 0] if layout.channels == 1 else rows), (0, top))
        top += len(rows)
    buffer = io.BytesIO()  # Pillow reports a full disk as an encoder's failure; Python says what it is
    with quiet:
        image.save(buffer, **options)
    return buffer.getbuffer()


def _pillow_options(format: str, layout: FileLayout, quality: int) -> dict[str, Any]:
    options: dict[str, Any] = {"format": format.upper()}
    if layout.resolution and format in ("JPEG", "BMP"):
        options["dpi"] = layout.resolution
    if format == "BMP":
        return options
    options |= {"quality": quality, "icc_profile": layout.profile or b""}
    if layout.exif:
        options["exif"] = b"Exif\0\0" + layout.exif
    if layout.xmp:
        options["xmp"] = layout.xmp
    if format == "JPEG":
        options["subsampling"] = "4:4:4" if quality >= 90 else "4:2:0"
        options["extra"] = b"".join(_iptc_segments(layout.iptc)) + b"".join(_comment_segments(layout.text))
    if format == "WebP":
        options |= {"lossless": quality == 100, "exact": True, "method": 4}
    return options


def _iptc_segments(iptc: bytes | None) -> Iterable[bytes]:
    name = b"Photoshop 3.0\0"
    resources = metadata.resources_of_iptc(iptc) if iptc else b""
    step = _SEGMENT - len(name)
    for start in range(0, len(resources), step):
        content = name + resources[start : start + step]
        yield b"\xff\xed" + struct.pack(">H", 2 + len(content)) + content


def _comment_segments(text: tuple[metadata.Text, ...]) -> Iterable[bytes]:
    for _, comment in text:
        content = comment.encode("utf-8", "surrogateescape")[:_SEGMENT]
        yield b"\xff\xfe" + struct.pack(">H", 2 + len(content)) + content


def _avif(samples: np.ndarray, layout: FileLayout, quality: int) -> bytes:
    """By libavif, with colours said in numbers, and all else put beside the pixels afterwards."""
    import imagecodecs

    bits = _AVIF_BITS[layout.depth]
    if bits > 8:
        samples = _in_bits(samples, bits)
    primaries, transfer = (layout.space and layout.space.codes) or (1, SRGB_CURVE)
    full = quality >= 90
    data = imagecodecs.avif_encode(
        samples[:, :, 0] if layout.channels == 1 else samples,
        level=quality,
        speed=6,
        bitspersample=bits,
        pixelformat="400" if layout.grey else "444" if full else "420",
        primaries=primaries,
        transfer=transfer,
        matrix=9 if primaries == 9 else 6,
    )
    return with_items(bytes(data), profile=layout.profile, exif=layout.exif, xmp=layout.xmp)


def _in_bits(samples: np.ndarray, bits: int) -> np.ndarray:
    """16-bit samples in fewer bits, rounded to nearest; in place, piece by piece."""
    most = 2**bits - 1
    for rows in samples:
        rows[:] = (rows.astype(np.uint32) * most + 32767) // 65535
    return samples
