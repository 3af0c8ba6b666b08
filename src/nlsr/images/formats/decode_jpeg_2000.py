"""JPEG 2000: pixels by OpenJPEG (imagecodecs), what they mean by the boxes of a JP2.

Grey and RGB are read, with alpha or without, of up to 16 bits; YCC, palettes and CMYK would need a conversion: refused.

Source: ISO/IEC 15444-1, annexes A and I.
"""

import struct
from typing import BinaryIO

from nlsr.images.formats.boxes import boxes, find
from nlsr.images.formats.decoded import Beside, CheckSize, Decoded, Refusal, described
from nlsr.images.formats.meaning import Claims

JP2, J2K = b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"
_SRGB, _GREY = 16, 17
_SPACES = {18: "YCC", 12: "CMYK", 14: "CIELab", 15: "bi-level"}


_READING = 44
"""Bytes per pixel that are taken until a picture is read: its decoder holds 32 bits of every sample."""


def decode_jpeg_2000(file: BinaryIO, check_size: CheckSize) -> Decoded:
    """The picture of a JP2 or of a bare codestream."""
    import imagecodecs

    data = file.read()
    codestream = data.find(J2K)
    if codestream < 0:
        raise ValueError("no codestream")
    right, bottom, left, top = struct.unpack_from(">4I", data, codestream + 8)
    (count,) = struct.unpack_from(">H", data, codestream + 40)
    parts = [data[codestream + 42 + 3 * i : codestream + 45 + 3 * i] for i in range(min(count, 5))]
    depths = {part[0] for part in parts if part}
    deep = max(depths, default=0) > 7
    check_size(right - left, bottom - top, alpha=count in (2, 4), depth=16 if deep else 8, reading=_READING)
    if not 1 <= count <= 4 or len(depths) != 1 or not depths <= set(range(16)):
        raise Refusal("expected 1 to 4 channels of equal depth up to 16 bits in JPEG 2000; convert it to PNG")
    if any(part[1:] != b"\1\1" for part in parts):
        raise Refusal("expected channels of full size in JPEG 2000; convert it to PNG")
    claims = _claims(data, count)
    samples = imagecodecs.jpeg2k_decode(data)
    samples = samples.reshape(*samples.shape[:2], -1)
    if samples.shape != (bottom - top, right - left, count):
        raise ValueError(f"{count} channels of {right - left}×{bottom - top} expected, got {samples.shape}")
    depth = depths.pop() + 1
    decoded = Decoded(samples, 2.0**depth - 1, 8 if depth <= 8 else 16)
    return described(decoded, Beside(claims), "JPEG 2000")


def _claims(data: bytes, count: int) -> Claims:
    """Refuses colours that samples would have to be converted from, and channels in another order."""
    if data.startswith(J2K):
        return Claims()
    header = find(data, b"jp2h")
    if header is None:
        raise ValueError("no header of colours")
    inside = {box.kind: data[box.start : box.end] for box in boxes(data, header.start, header.end)}
    colours = inside.get(b"colr", b"")
    if b"pclr" in inside:
        raise Refusal("expected grey or RGB pixels in JPEG 2000, got a palette; convert it to PNG")
    if colours[:1] == b"\2":
        return Claims(colours[3:])
    space = int.from_bytes(colours[3:7], "big")
    if space not in (_SRGB, _GREY):
        raise Refusal(f"expected grey or RGB pixels in JPEG 2000, got {_SPACES.get(space, space)}; convert it to PNG")
    if (space == _SRGB) != (count >= 3):
        raise ValueError(f"{count} channels do not fit the colours")
    return Claims(srgb=space == _SRGB)
