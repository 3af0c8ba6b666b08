"""EXIF and XMP that still tell the truth after a picture was turned upright and enlarged. Knows nothing of pixels."""

import re
import struct
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

ORIENTATION = int(ExifTags.Base.Orientation)
PROFILE_TAG, XMP_TAG = 34675, 700

# What describes one particular arrangement of pixels in one file, and what is carried by other means.
_STALE_TAGS = {
    *range(254, 267),  # sizes, bits, compression, colour
    *(273, 274, *range(277, 282), 284),  # strips, orientation, planes
    *(288, 289, 290, 291, 301),
    *(*range(317, 338), *range(338, 348)),  # predictor, palette, tiles, sub-images, extra samples
    *range(512, 533),  # JPEG inside TIFF, the place of the thumbnail
    *(XMP_TAG, 33723, 34377, PROFILE_TAG, 37724),  # XMP, IPTC, Photoshop layers, profile
}
_STALE_EXIF_TAGS = {int(ExifTags.Base.ExifImageWidth), int(ExifTags.Base.ExifImageHeight), 0xA005}
_POINTERS = (int(ExifTags.IFD.Exif), int(ExifTags.IFD.GPSInfo))


def valid_orientation(value: object) -> int:
    """How the stored pixels must be turned, 1 to 8; 1 where the tag is missing or nonsense."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright_exif(exif: Image.Exif) -> bytes | None:
    """EXIF as bytes (a TIFF structure without the `Exif` prefix) without orientation, sizes and thumbnail.

    None where nothing is left. Raises whatever Pillow raises for a damaged structure.
    """
    kept = {tag: value for tag, value in exif.items() if tag not in _STALE_TAGS and tag not in _POINTERS}
    for pointer in _POINTERS:
        nested = {tag: value for tag, value in exif.get_ifd(pointer).items() if tag not in _STALE_EXIF_TAGS}
        if nested:
            kept[pointer] = nested
    if not kept:
        return None
    header = b"MM\0*\0\0\0\x08" if exif.endian == ">" else b"II*\0\x08\0\0\0"
    return header + _directory(header, kept).tobytes(8)


def tiff_entries(exif: bytes, offset: int, *, big: bool) -> tuple[bytes, dict[int, bytes]]:
    """EXIF for the inside of a little-endian TIFF: a block to be stored at `offset`, and directory entries by tag.

    The entries point into the block. `big` says whether the file is a BigTIFF.
    """
    loaded = Image.Exif()
    loaded.load(exif)
    kept: dict[int, Any] = {tag: value for tag, value in loaded.items() if tag not in _POINTERS}
    kept |= {pointer: nested for pointer in _POINTERS if (nested := loaded.get_ifd(pointer))}
    header = b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) if big else b"II*\0\x08\0\0\0"
    block = _directory(header, kept).tobytes(offset)
    size, first = (20, 8) if big else (12, 2)
    (count,) = struct.unpack("<Q" if big else "<H", block[:first])
    entries = [block[first + size * i : first + size * (i + 1)] for i in range(count)]
    return block, {struct.unpack("<H", entry[:2])[0]: entry for entry in entries}


def upright_xmp(xmp: bytes) -> bytes:
    """XMP with its orientation reset to 1 and without pixel sizes, written as attributes or as elements."""
    xmp = re.sub(rb"""(tiff:Orientation\s*(?:=\s*["']|>\s*))[0-9]""", rb"\g<1>1", xmp)
    sizes = rb"(?:exif:Pixel[XY]Dimension|tiff:Image(?:Width|Length))"
    xmp = re.sub(rb"""\s""" + sizes + rb"""\s*=\s*(?:"[^"]*"|'[^']*')""", b"", xmp)
    return re.sub(rb"<(" + sizes + rb")>[^<]*</\1>", b"", xmp)


def _directory(header: bytes, tags: Mapping[int, Any]) -> ImageFileDirectory_v2:
    directory = ImageFileDirectory_v2(ifh=header)
    for tag, value in tags.items():
        directory[tag] = value
    return directory
