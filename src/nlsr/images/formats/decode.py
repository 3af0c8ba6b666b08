"""From the bytes of an image file to its samples, by content and never by name. Knows nothing of tensors and paths.

Pillow reads what it reads exactly, but nothing deeper than 8 bits: libpng (imagecodecs) reads 16-bit PNG, libavif
(imagecodecs) AVIF of 10 and 12 bits. tifffile reads TIFF, also because libtiff inside Pillow prints to standard error
and continues with damaged data.
"""

import struct
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    ImageFile,
    TgaImagePlugin,
    WebPImagePlugin,
)

from nlsr.errors import UsageError
from nlsr.extras import require
from nlsr.images.formats import metadata
from nlsr.images.formats.boxes import has_gain_map, primary_colours
from nlsr.images.formats.decode_jpeg import decode_jpeg
from nlsr.images.formats.decode_jpeg_2000 import J2K, JP2, decode_jpeg_2000
from nlsr.images.formats.decode_png import PNG_SIGNATURE, decode_png
from nlsr.images.formats.decode_pnm import decode_pnm
from nlsr.images.formats.decode_tiff import decode_tiff
from nlsr.images.formats.decoded import (
    READING,
    Beside,
    CheckSize,
    Decoded,
    Refusal,
    described,
    lies_on_its_side,
    start_of,
)
from nlsr.images.formats.jpeg_xl import CODESTREAM, CONTAINER, decode_jpeg_xl
from nlsr.images.formats.meaning import Claims
from nlsr.images.formats.pillow_pixels import samples_of

# The classes themselves rather than `Image.open`, whose limit of pixels is a global that other libraries change.
_PLUGINS: dict[str, Callable[[BinaryIO], ImageFile.ImageFile]] = {
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "ICO": IcoImagePlugin.IcoImageFile,
    "TGA": TgaImagePlugin.TgaImageFile,
}
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DEEP_READING = 28
"""Bytes per pixel that are taken until a picture of more than 8 bits is read."""
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def sniff(head: bytes) -> str | None:
    """The format whose signature the first 64 bytes carry; None if it is none of those that are read.

    TGA has none: `looks_like_tga` tells whether a file that is called so may be one.
    """
    if head.startswith(PNG_SIGNATURE):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    if head.startswith(_TIFF_STARTS):
        return "TIFF"
    if head.startswith(b"BM"):
        return "BMP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith((CONTAINER, CODESTREAM)):
        return "JPEG XL"
    if head.startswith((JP2, J2K)):
        return "JPEG 2000"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PNM"
    if head.startswith(b"\0\0\1\0") and head[4:6] != b"\0\0":
        return "ICO"
    if head[4:8] == b"ftyp" and (b"avif" in head or b"avis" in head):
        return "AVIF"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS:
        return "HEIC"
    return None


def looks_like_tga(head: bytes) -> bool:
    """Whether the first 18 bytes may be the header of a TGA."""
    return len(head) >= 18 and head[1] < 2 and head[2] in (1, 2, 3, 9, 10, 11) and head[16] in (8, 15, 16, 24, 32)


def decode(file: BinaryIO, format: str, check_size: CheckSize) -> Decoded:
    """Read the first image of a file; `check_size(width, height)` is called before its pixels are decoded.

    CMYK has become sRGB, and values proportional to light are encoded.
    Raises: Refusal for what is understood and refused, and whatever a decoder raises for damaged data.
    """
    if format in _DECODERS:
        return _DECODERS[format](file, check_size)
    return _decode_with_pillow(file, format, check_size)


def _decode_with_pillow(file: BinaryIO, format: str, check_size: CheckSize) -> Decoded:
    image = _PLUGINS[format](file)
    bits = _avif_bits(file) if format == "AVIF" else 8
    check_size(
        *image.size,
        alpha=image.has_transparency_data,
        depth=16 if bits > 8 else 8,
        turned=lies_on_its_side(image.info.get("exif")),
        reading=_DEEP_READING if bits > 8 else READING + 4 * image.has_transparency_data,
    )
    frames = int(getattr(image, "n_frames", 1))
    notes = [f"animated file of {frames} frames: first frame taken"] if frames > 1 else []
    if format == "ICO" and len(image.info.get("sizes", ())) > 1:
        notes = [f"file of {len(image.info['sizes'])} pictures: the largest taken"]
    if bits > 8:
        decoded = Decoded(_deep_avif_samples(file), 2.0**bits - 1, 16, notes=notes)
    else:
        image.load()  # also reads what follows the pixels
        if format == "ICO":  # its size may differ from what its file announces
            check_size(*image.size, alpha=image.has_transparency_data, reading=READING + 4)
        decoded = Decoded(samples_of(image, format), 255.0, 8, notes=notes)
    info = image.info
    beside = Beside(Claims(info.get("icc_profile")), exif=info.get("exif"), xmp=info.get("xmp"))
    if format == "AVIF":
        _look_into_boxes(beside, file)
    elif format == "BMP":
        beside.claims.profile = _bmp_profile(file)
        density = info.get("dpi")
        beside.resolution = density if density and all(density) else None  # 0 is how BMP says nothing
    elif format == "GIF" and info.get("comment"):
        beside.text.append((metadata.COMMENT, info["comment"].decode("latin-1")))
    return described(decoded, beside, format)


def _look_into_boxes(beside: Beside, file: BinaryIO) -> None:
    file.seek(0)
    data = file.read()
    profile, codes = primary_colours(data)
    beside.claims = Claims(beside.claims.profile or profile, codes, codes_in="nclx")
    if has_gain_map(data):
        beside.notes.append("the gain map is dropped, the picture without it kept")


def _bmp_profile(file: BinaryIO) -> bytes | None:
    """The ICC profile behind a header of version 5."""
    head = start_of(file, 138)
    if len(head) < 138 or head[14:18] != b"\x7c\0\0\0" or head[70:74] != b"DEBM":
        return None
    offset, size = struct.unpack_from("<II", head, 126)
    file.seek(14 + offset)
    return file.read(min(size, 2**24))


def _avif_bits(file: BinaryIO) -> int:
    """8, 10 or 12: what the AV1 configuration box says."""
    head = start_of(file, 2**16)
    box = head.find(b"av1C")
    flags = head[box + 6] if 0 <= box < len(head) - 6 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def _deep_avif_samples(file: BinaryIO) -> np.ndarray:
    import imagecodecs

    file.seek(0)
    samples = imagecodecs.avif_decode(file.read(), index=0)
    return samples[:, :, None] if samples.ndim == 2 else samples


def _decode_heic(file: BinaryIO, check_size: CheckSize) -> Decoded:
    """HEIF of HEVC pictures; libheif has turned them upright already, by the container and not by EXIF."""
    try:
        require("pillow_heif", extra="heif")
    except UsageError as missing:
        raise Refusal(f"is HEIC: {missing}") from missing
    import pillow_heif

    container = pillow_heif.open_heif(file, convert_hdr_to_8bit=False, hdr_to_16bit=False)
    image = container[container.primary_index]
    info: dict[str, Any] = image.info
    bits = int(info["bit_depth"])
    depth = 16 if bits > 8 else 8
    check_size(*image.size, alpha=image.has_alpha, depth=depth, reading=_DEEP_READING)
    samples = np.asarray(image)
    decoded = Decoded(samples.reshape(*samples.shape[:2], -1), 2.0**bits - 1, depth)
    beside = Beside(Claims(info.get("icc_profile")), exif=info.get("exif"), xmp=info.get("xmp"), upright=True)
    _look_into_boxes(beside, file)
    if len(container) > 1:
        decoded.notes.append(f"file of {len(container)} pictures: the primary one taken")
    return described(decoded, beside, "HEIC")


_DECODERS: dict[str, Callable[[BinaryIO, CheckSize], Decoded]] = {
    "PNG": decode_png,
    "JPEG": decode_jpeg,
    "TIFF": decode_tiff,
    "HEIC": _decode_heic,
    "JPEG XL": decode_jpeg_xl,
    "PNM": decode_pnm,
    "JPEG 2000": decode_jpeg_2000,
}
