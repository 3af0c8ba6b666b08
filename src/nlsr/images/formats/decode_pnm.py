"""PBM, PGM and PPM, as text or bytes, of any depth up to 16 bits, which Pillow would drop to 8.

Source: the manual pages of Netpbm.
"""

import re
from typing import BinaryIO

import numpy as np

from nlsr.images.formats.decoded import Beside, CheckSize, Decoded, described

_SPACE = rb"(?:\s|#[^\n]*\n)+"
_COMMENT = re.compile(rb"#[^\n]*")


_READING, _TEXT_READING = 28, 400
"""Bytes per pixel that are taken until a picture is read: numbers that are written out become objects in between."""


def decode_pnm(file: BinaryIO, check_size: CheckSize) -> Decoded:
    """The first picture of a file."""
    data = file.read()
    kind = data[1] - ord("0")
    channels, is_text, is_bits = 3 if kind in (3, 6) else 1, kind < 4, kind in (1, 4)
    numbers = _SPACE + rb"(\d{1,9})" + _SPACE + rb"(\d{1,9})" + (b"" if is_bits else _SPACE + rb"(\d{1,5})")
    header = re.compile(rb"P\d" + numbers + rb"\s").match(data)
    if header is None:
        raise ValueError("no header of sizes")
    width, height = int(header[1]), int(header[2])
    most = 1 if is_bits else int(header[3])
    check_size(width, height, depth=16 if most > 255 else 8, reading=_TEXT_READING if is_text else _READING)
    if not 1 <= most <= 65535:
        raise ValueError(f"values up to {most}")
    body, count = data[header.end() :], width * height * channels
    if is_text:
        samples = _written_out(body, count, is_bits)
    elif is_bits:
        rows = np.frombuffer(body, np.uint8, height * -(-width // 8)).reshape(height, -1)
        samples = np.unpackbits(rows, axis=1)[:, :width]
    else:
        samples = np.frombuffer(body, ">u2" if most > 255 else np.uint8, count)
    if is_bits:
        samples = 1 - samples  # 1 is black
    if samples.size != count or samples.max() > most:
        raise ValueError(f"{count} values up to {most} expected")
    decoded = Decoded(samples.reshape(height, width, channels), float(most), 16 if most > 255 else 8)
    return described(decoded, Beside(), "PNM")


def _written_out(body: bytes, count: int, is_bits: bool) -> np.ndarray:
    digits = _COMMENT.sub(b"", body)
    words = re.findall(rb"[01]" if is_bits else rb"\d+", digits)[:count]
    return np.array([int(word) if len(word) < 6 else 65536 for word in words], np.uint32)
