"""From the bytes of an image file to its samples, by content and never by name. Knows nothing of tensors and paths.

Pillow reads what it reads exactly, but nothing deeper than 8 bits: libpng (imagecodecs) reads 16-bit PNG, libavif
(imagecodecs) AVIF of 10 and 12 bits. tifffile reads TIFF, also because libtiff inside Pillow prints to standard error
and continues with damaged data.
"""

import re
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from nlsr.errors import UsageError
from nlsr.extras import require
from nlsr.images.formats.decode_png import PNG_SIGNATURE, decode_deep_png, png_depth
from nlsr.images.formats.decode_tiff import decode_tiff
from nlsr.images.formats.decoded import (
    CheckSize,
    Decoded,
    Refusal,
    described,
    start_of,
    with_metadata,
    without_inks,
    without_linear_light,
)

# The classes themselves rather than `Image.open`, whose limit of pixels is a global that other libraries change.
_PLUGINS: dict[str, Callable[[BinaryIO], ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_JPEG_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")


def sniff(head: bytes) -> str | None:
    """The format whose signature the first 64 bytes carry; None if it is none of those that are read."""
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
    if head[4:8] == b"ftyp" and (b"avif" in head or b"avis" in head):
        return "AVIF"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS:
        return "HEIC"
    return None


def decode(file: BinaryIO, format: str, check_size: CheckSize) -> Decoded:
    """Read the first image of a file; `check_size(width, height)` is called before its pixels are decoded.

    CMYK has become sRGB, and values proportional to light are encoded.
    Raises: Refusal for what is understood and refused, and whatever a decoder raises for damaged data.
    """
    if format == "TIFF":
        decoded = decode_tiff(file, check_size)
    elif format == "PNG" and png_depth(file) == 16:
        decoded = decode_deep_png(file, check_size)
    elif format == "HEIC":
        decoded = _decode_heic(file, check_size)
    else:
        decoded = _decode_with_pillow(file, format, check_size)
    return without_linear_light(decoded)


def _decode_with_pillow(file: BinaryIO, format: str, check_size: CheckSize) -> Decoded:
    if format == "JPEG":
        _check_jpeg_end(file)
    image = _PLUGINS[format](file)
    check_size(*image.size)
    frames = int(getattr(image, "n_frames", 1))
    notes = [f"animated file of {frames} frames: first frame taken"] if frames > 1 else []
    bits = _avif_bits(file) if format == "AVIF" else 8
    if bits > 8:
        decoded = Decoded(_deep_avif_samples(file), 2.0**bits - 1, 16, notes=notes)
        return described(decoded, image)
    image.load()  # also reads what follows the pixels
    decoded = described(Decoded(np.empty(0), 255.0, 8, notes=notes), image)
    if image.mode == "CMYK":
        decoded.samples = np.asarray(image)
        return without_inks(decoded)
    mode = _mode(image)
    if mode is None:
        raise Refusal(f"expected grey, RGB, CMYK or palette pixels, got {image.mode} in {format}; convert it to RGB")
    upright = image if image.mode == mode else image.convert(mode)
    decoded.samples = np.asarray(upright).reshape(image.height, image.width, -1)
    return decoded


def _check_jpeg_end(file: BinaryIO) -> None:
    """Refuse a JPEG whose scans do not run to an end marker: decoders fill what is missing with grey."""
    data = file.read()
    file.seek(0)
    position = 2
    for _ in range(len(data)):
        marker = _JPEG_MARKER.search(data, position)
        if marker is None or marker[1] == b"\xd9":
            break
        position = marker.end()
        if marker[1] not in (b"\x01", b"\xd8"):
            position += int.from_bytes(data[position : position + 2], "big")
    if marker is None:
        raise ValueError("no end marker")


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


def _mode(image: Image.Image) -> str | None:
    """The one of L, LA, RGB and RGBA that holds what the image holds."""
    transparent = image.has_transparency_data
    if image.mode in ("1", "L", "LA", "La") or (image.mode in ("P", "PA") and _has_grey_palette(image)):
        return "LA" if transparent else "L"
    if image.mode in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
        return "RGBA" if transparent else "RGB"
    return None


def _has_grey_palette(image: Image.Image) -> bool:
    red, green, blue = np.reshape(image.getpalette("RGB") or [], (-1, 3)).T
    return bool((red == green).all() and (green == blue).all())


def _decode_heic(file: BinaryIO, check_size: CheckSize) -> Decoded:
    """HEIF of HEVC pictures; libheif has turned them upright already, by the container and not by EXIF."""
    try:
        require("pillow_heif", extra="heif")
    except UsageError as missing:
        raise Refusal(f"is HEIC: {missing}") from missing
    import pillow_heif

    container = pillow_heif.open_heif(file, convert_hdr_to_8bit=False, hdr_to_16bit=False)
    image = container[container.primary_index]
    check_size(*image.size)
    info: dict[str, Any] = image.info
    samples, bits = np.asarray(image), int(info["bit_depth"])
    decoded = Decoded(samples.reshape(*samples.shape[:2], -1), 2.0**bits - 1, 16 if bits > 8 else 8)
    exif = Image.Exif()
    try:
        exif.load(info.get("exif") or b"")
    except Exception:  # Pillow has no error of its own for damaged EXIF
        decoded.notes.append("EXIF cannot be read: dropped")
        exif = Image.Exif()
    with_metadata(decoded, exif, profile=info.get("icc_profile"), xmp=info.get("xmp"))
    decoded.orientation = 1
    if len(container) > 1:
        decoded.notes.append(f"file of {len(container)} pictures: the primary one taken")
    return decoded
