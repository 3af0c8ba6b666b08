"""Colour profiles (ICC) whose values are proportional to light, which networks are not trained on: recognising such a
profile, and the one that fits the same colours encoded with the sRGB curve. Knows nothing of files and pixels' layout.

Source: ICC.1 (profile format), IEC 61966-2-1 (the sRGB curve).
"""

import struct

import numpy as np

_HEADER_SIZE = 128
_CURVES = (b"rTRC", b"gTRC", b"bTRC", b"kTRC")
_NAME = "The sRGB tone curve in place of a linear one"
# Steps of the curve's table; interpolated linearly, they are right to a millionth.
_CURVE_STEPS = 1024

Tags = dict[bytes, bytes]


def is_linear(profile: bytes) -> bool:
    """Whether a grey or RGB profile says that values are proportional to light; False for what cannot be parsed."""
    try:
        tags = _tags(profile)
        curves = [tags[name] for name in _CURVES if name in tags]
        # A profile with tables (A2B) is read through them, whatever its curves say.
        wanted = {b"RGB ": 3, b"GRAY": 1}.get(profile[16:20])
        return len(curves) == wanted and b"A2B0" not in tags and all(map(_is_straight, curves))
    except (struct.error, ValueError):
        return False


def with_srgb_curve(profile: bytes) -> bytes:
    """The same primaries and white with the sRGB curve; for a profile that `is_linear`."""
    tags = _tags(profile)
    codes = np.arange(_CURVE_STEPS) / (_CURVE_STEPS - 1)
    light = np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)
    curve = struct.pack(">4s4xI", b"curv", _CURVE_STEPS) + np.rint(light * 65535).astype(">u2").tobytes()
    tags |= {name: curve for name in _CURVES if name in tags}
    tags.pop(b"cicp", None)  # says "linear" in another way
    tags[b"desc"] = _description(version=profile[8])
    # The identity is a checksum that may be zero.
    return _assembled(profile[:84] + bytes(16) + profile[100:_HEADER_SIZE], tags)


def srgb_encoded(light: np.ndarray) -> np.ndarray:
    """Values in [0, 1] proportional to light, encoded with the sRGB curve; float32."""
    light = light.astype(np.float32, copy=False)
    encoded = np.power(light, np.float32(1 / 2.4))
    np.subtract(np.multiply(encoded, np.float32(1.055), out=encoded), np.float32(0.055), out=encoded)
    return np.where(light <= np.float32(0.0031308), light * np.float32(12.92), encoded)


def _tags(profile: bytes) -> Tags:
    (count,) = struct.unpack_from(">I", profile, _HEADER_SIZE)
    if count > 100:
        raise ValueError("no table of tags")
    entries = [struct.unpack_from(">4sII", profile, _HEADER_SIZE + 4 + 12 * i) for i in range(count)]
    return {name: profile[offset : offset + size] for name, offset, size in entries}


def _is_straight(curve: bytes) -> bool:
    kind, count = struct.unpack_from(">4s4xI", curve)
    if kind == b"curv" and count == 0:
        return True
    if kind == b"curv" and count == 1:
        return curve[12:14] == b"\1\0"  # 1 in 8.8 bits
    if kind == b"curv":
        values = np.frombuffer(curve, ">u2", count, 12)
        return bool(np.abs(values - np.linspace(0, 65535, count)).max() < 1)
    return kind == b"para" and curve[8:10] == b"\0\0" and curve[12:16] == b"\0\1\0\0"  # 1 in 16.16 bits


def _description(version: int) -> bytes:
    if version >= 4:
        text = _NAME.encode("utf-16-be")
        return struct.pack(">4s4xII2s2sII", b"mluc", 1, 12, b"en", b"US", len(text), 28) + text
    text = _NAME.encode("ascii") + b"\0"
    return struct.pack(">4s4xI", b"desc", len(text)) + text + bytes(4 + 4 + 2 + 1 + 67)  # no other languages


def _assembled(header: bytes, tags: Tags) -> bytes:
    """A profile of these tags; equal contents are stored once."""
    table, data = struct.pack(">I", len(tags)), b""
    places: dict[bytes, int] = {}
    start = _HEADER_SIZE + 4 + 12 * len(tags)
    for name, content in tags.items():
        if content not in places:
            places[content] = start + len(data)
            data += content + bytes(-len(content) % 4)
        table += struct.pack(">4sII", name, places[content], len(content))
    return struct.pack(">I", start + len(data)) + header[4:] + table + data
