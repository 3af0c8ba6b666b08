"""What stands beside pixels and still tells the truth after a picture was turned upright and enlarged.

EXIF, XMP, IPTC-IIM, resolution and text; each as it stands in no file in particular. Knows nothing of pixels.
"""

import math
import re
import struct
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational, ImageFileDirectory_v2

ORIENTATION = int(ExifTags.Base.Orientation)
PROFILE_TAG, XMP_TAG, IPTC_TAG, PHOTOSHOP_TAG = 34675, 700, 33723, 34377
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
_COLOUR_SPACE, _INTEROPERABILITY = 0xA001, 0xA005
_INCH, _CENTIMETRE = 2, 3
_RESOLUTIONS = (0.01, 1e6)
"""Dots per inch that make sense."""

TEXT_LIMIT = 2**24
"""Bytes of one unpacked text; more is a bomb rather than a word about a picture."""

Resolution = tuple[float, float]
"""Across and down, in dots per inch."""

Text = tuple[str, str]
"""A keyword, as PNG has it, and what is said; the comment of a JPEG or GIF has the keyword `Comment`."""

COMMENT = "Comment"

# What describes one particular arrangement of pixels in one file, and what is carried by other means.
_STALE_TAGS = {
    *range(254, 267),  # sizes, bits, compression, colour
    *(273, 274, *range(277, 282), 284),  # strips, orientation, planes
    *(288, 289, 290, 291, 301),
    *(*range(317, 338), *range(338, 348)),  # predictor, palette, tiles, sub-images, extra samples
    *range(512, 533),  # JPEG inside TIFF, the place of the thumbnail
    *(XMP_TAG, IPTC_TAG, PHOTOSHOP_TAG, PROFILE_TAG, 37724),  # XMP, IPTC, Photoshop layers, profile
    *(X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT),
}
_STALE_EXIF_TAGS = {int(ExifTags.Base.ExifImageWidth), int(ExifTags.Base.ExifImageHeight)}
_STALE_EXIF_TAGS |= {_COLOUR_SPACE, _INTEROPERABILITY}  # colours are said by other means
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


def colours_of_exif(exif: Image.Exif) -> tuple[object, object]:
    """ColorSpace and InteroperabilityIndex. Raises whatever Pillow raises for a damaged structure."""
    space = exif.get_ifd(ExifTags.IFD.Exif).get(_COLOUR_SPACE)
    return space, exif.get_ifd(ExifTags.IFD.Interop).get(1) if space is not None else None


def resolution_of_tags(tags: Mapping[int, Any]) -> Resolution | None:
    """By the tags of EXIF and TIFF; None without them, and NaN for what is no number."""
    if X_RESOLUTION not in tags or tags.get(RESOLUTION_UNIT, _INCH) not in (_INCH, _CENTIMETRE):
        return None
    scale = 2.54 if tags.get(RESOLUTION_UNIT) == _CENTIMETRE else 1.0
    across, down = (_number(tags.get(tag, tags[X_RESOLUTION])) * scale for tag in (X_RESOLUTION, Y_RESOLUTION))
    return across, down


def _number(value: Any) -> float:
    try:
        if isinstance(value, tuple) and len(value) == 2:
            return value[0] / value[1]
        return float(value)
    except (TypeError, ValueError, ArithmeticError):
        return math.nan


def makes_sense(resolution: Resolution) -> bool:
    """Whether both numbers are finite and neither nothing nor everything."""
    return all(_RESOLUTIONS[0] <= value <= _RESOLUTIONS[1] for value in resolution)


def as_fraction(value: float) -> Fraction:
    """A resolution as a ratio of 32-bit numbers; a whole number where metric rounding has moved it by a little."""
    return Fraction(round(value)) if abs(value - round(value)) < 0.013 else Fraction(value).limit_denominator(1000)


def with_resolution(exif: bytes | None, resolution: Resolution | None) -> bytes | None:
    """EXIF, made where there is none, that says a resolution."""
    if resolution is None:
        return exif
    loaded = Image.Exif()
    if exif is not None:
        loaded.load(exif)
    kept = _contents(loaded)
    across, down = (as_fraction(value) for value in resolution)
    kept |= {X_RESOLUTION: IFDRational(across), Y_RESOLUTION: IFDRational(down), RESOLUTION_UNIT: _INCH}
    header = b"MM\0*\0\0\0\x08" if loaded.endian == ">" else b"II*\0\x08\0\0\0"
    return header + _directory(header, kept).tobytes(8)


def _contents(exif: Image.Exif) -> dict[int, Any]:
    """Its tags, and its directories by their pointers."""
    kept: dict[int, Any] = {tag: value for tag, value in exif.items() if tag not in _POINTERS}
    return kept | {pointer: nested for pointer in _POINTERS if (nested := exif.get_ifd(pointer))}


# IPTC-IIM in the image resource blocks of Photoshop


def iptc_of_resources(blocks: bytes) -> bytes | None:
    """What block 0x0404 holds; None if there is none, or it is cut short."""
    position = 0
    while blocks[position : position + 4] == b"8BIM" and position + 12 <= len(blocks):
        (number,) = struct.unpack_from(">H", blocks, position + 4)
        position += 6 + (blocks[position + 6] // 2 + 1) * 2  # a name with its length in front, padded to even
        if position + 4 > len(blocks):
            return None
        (size,) = struct.unpack_from(">I", blocks, position)
        position += 4
        if number == 0x0404:
            return blocks[position : position + size] if position + size <= len(blocks) else None
        position += size + size % 2
    return None


def resources_of_iptc(iptc: bytes) -> bytes:
    return b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + bytes(len(iptc) % 2)


# Profiles as hexadecimal text, as ImageMagick and ExifTool keep them in PNG


def raw_profile(text: str) -> bytes | None:
    """The bytes of a text under a keyword `Raw profile type ...`; None if it is none."""
    try:
        _, _, size, digits = text.split("\n", 3)
        content = bytes.fromhex(digits)
        return content if len(content) == int(size) else None
    except ValueError:
        return None


def as_raw_profile(kind: str, content: bytes) -> str:
    digits = content.hex()
    lines = "\n".join(digits[i : i + 72] for i in range(0, len(digits), 72))
    return f"\n{kind}\n{len(content):8}\n{lines}\n"


def tiff_entries(exif: bytes, offset: int, *, big: bool) -> tuple[bytes, dict[int, bytes]]:
    """EXIF for the inside of a little-endian TIFF: a block to be stored at `offset`, and directory entries by tag.

    The entries point into the block. `big` says whether the file is a BigTIFF.
    """
    loaded = Image.Exif()
    loaded.load(exif)
    kept = _contents(loaded)
    header = b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) if big else b"II*\0\x08\0\0\0"
    block = _directory(header, kept).tobytes(offset)
    size, first = (20, 8) if big else (12, 2)
    (count,) = struct.unpack("<Q" if big else "<H", block[:first])
    entries = [block[first + size * i : first + size * (i + 1)] for i in range(count)]
    return block, {struct.unpack("<H", entry[:2])[0]: entry for entry in entries}


def upright_xmp(xmp: bytes) -> bytes:
    """XMP with its orientation reset to 1, without pixel sizes, and without a map of gains that is gone.

    All of them may be written as attributes or as elements.
    """
    xmp = re.sub(rb"""(tiff:Orientation\s*(?:=\s*["']|>\s*))[0-9]""", rb"\g<1>1", xmp)
    sizes = rb"(?:exif:Pixel[XY]Dimension|tiff:Image(?:Width|Length))"
    xmp = re.sub(rb"""\s""" + sizes + rb"""\s*=\s*(?:"[^"]*"|'[^']*')""", b"", xmp)
    xmp = re.sub(rb"<(" + sizes + rb")>[^<]*</\1>", b"", xmp)
    xmp = re.sub(rb"""\shdrgm:\w+\s*=\s*(?:"[^"]*"|'[^']*')""", b"", xmp)
    xmp = re.sub(rb"<(hdrgm:\w+)>[^<]*</\1>", b"", xmp)
    # What else such a file holds, the map among it; of the result nothing of it is true.
    return re.sub(rb"<((?:GContainer|Container):Directory)>.*?</\1>", b"", xmp, flags=re.DOTALL)


def orientation_of_xmp(xmp: bytes) -> int:
    """How the stored pixels must be turned; 1 where the packet does not say."""
    found = re.search(rb"""tiff:Orientation\s*(?:=\s*["']|>\s*)([1-8])""", xmp)
    return int(found[1]) if found else 1


def says_gain_map(xmp: bytes) -> bool:
    """Whether a JPEG's XMP announces a map from its picture to one of a higher range (Ultra HDR)."""
    return b"hdrgm:Version" in xmp


def _directory(header: bytes, tags: Mapping[int, Any]) -> ImageFileDirectory_v2:
    directory = ImageFileDirectory_v2(ifh=header)
    for tag, value in tags.items():
        directory[tag] = value
    return directory
