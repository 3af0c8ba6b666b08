"""TIFF and, beyond four gigabytes, BigTIFF, written as the rows come.

Source: TIFF revision 6.0 and its supplements; the BigTIFF design.
"""

import struct
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

from nlsr.images.formats import metadata
from nlsr.images.formats.layout import FileLayout, Strip
from nlsr.images.formats.parallel import in_parallel

_CLASSIC_LIMIT = 4 * 10**9  # more bytes need 64-bit offsets
_BYTE, _SHORT, _LONG, _RATIONAL, _UNDEFINED, _LONG8 = 1, 3, 4, 5, 7, 16

Tag = tuple[int, bytes, int]
"""Type, packed values, number of values."""


def write_tiff(file: BinaryIO, layout: FileLayout, strips: Iterable[Strip]) -> None:
    """Little-endian, deflated strips; the directory stands at the end, so that strips are written as they come."""
    import imagecodecs

    big = layout.row_bytes * layout.height > _CLASSIC_LIMIT
    number, size = ("<Q", 8) if big else ("<I", 4)
    file.write(b"II+\0\x08\0\0\0" + bytes(8) if big else b"II*\0" + bytes(4))

    def packed(strip: Strip) -> bytes:
        # Deflate is what every viewer reads; libdeflate packs half as fast again as zlib, and smaller.
        return bytes(imagecodecs.deflate_encode(_filtered(strip.samples(layout)), 1))

    offsets, counts = [], []
    for data in in_parallel(packed, strips):
        offsets.append(file.tell())
        counts.append(len(data))
        file.write(data + b"\0" * (len(data) % 2))

    exif: dict[int, bytes] = {}
    if layout.exif:
        block, exif = metadata.tiff_entries(layout.exif, file.tell(), big=big)
        file.write(block + b"\0" * (len(block) % 2))

    def entry(tag: int, kind: int, values: bytes, count: int) -> bytes:
        start = struct.pack("<HH", tag, kind) + struct.pack(number, count)
        if len(values) <= size:
            return start + values.ljust(size, b"\0")
        start += struct.pack(number, file.tell())
        file.write(values + b"\0" * (len(values) % 2))
        return start

    entries = exif | {tag: entry(tag, *content) for tag, content in _tags(layout, offsets, counts, big).items()}
    position = file.tell()
    file.write(struct.pack("<Q" if big else "<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)))
    file.write(bytes(size))
    file.seek(8 if big else 4)
    file.write(struct.pack(number, position))


def _filtered(rows: np.ndarray) -> bytes:
    """Integers as differences to their left neighbours (predictor 2), little-endian; floats as they are."""
    if np.issubdtype(rows.dtype, np.integer):
        rows = np.concatenate([rows[:, :1], rows[:, 1:] - rows[:, :-1]], axis=1)
    return rows.astype(rows.dtype.newbyteorder("<"), copy=False).tobytes()


def _tags(layout: FileLayout, offsets: list[int], counts: list[int], big: bool) -> dict[int, Tag]:
    """What describes the pixels."""
    integer = np.issubdtype(layout.dtype, np.integer)

    def packed(kind: int, *values: int) -> Tag:
        letter = {_SHORT: "H", _LONG: "I", _LONG8: "Q"}[kind]
        return kind, struct.pack(f"<{len(values)}{letter}", *values), len(values)

    tags = {
        256: packed(_LONG, layout.width),
        257: packed(_LONG, layout.height),
        258: packed(_SHORT, *[layout.depth] * layout.channels),
        259: packed(_SHORT, 8),  # deflate
        262: packed(_SHORT, 1 if layout.grey else 2),
        273: packed(_LONG8 if big else _LONG, *offsets),
        277: packed(_SHORT, layout.channels),
        278: packed(_LONG, layout.strip_rows),
        279: packed(_LONG8 if big else _LONG, *counts),
        284: packed(_SHORT, 1),
        317: packed(_SHORT, 2 if integer else 1),
        339: packed(_SHORT, *[1 if integer else 3] * layout.channels),
    }
    if layout.alpha:
        tags[338] = packed(_SHORT, 2)  # alpha that the colours were not multiplied by
    if layout.resolution:
        for tag, value in zip((metadata.X_RESOLUTION, metadata.Y_RESOLUTION), layout.resolution, strict=True):
            tags[tag] = _RATIONAL, struct.pack("<II", *metadata.as_fraction(value).as_integer_ratio()), 1
        tags[metadata.RESOLUTION_UNIT] = packed(_SHORT, 2)  # dots per inch
    if layout.iptc:
        tags[metadata.IPTC_TAG] = _UNDEFINED, layout.iptc, len(layout.iptc)
    if layout.profile:
        tags[metadata.PROFILE_TAG] = _UNDEFINED, layout.profile, len(layout.profile)
    if layout.xmp:
        tags[metadata.XMP_TAG] = _BYTE, layout.xmp, len(layout.xmp)
    return tags
