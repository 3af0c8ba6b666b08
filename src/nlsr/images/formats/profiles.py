"""ICC profiles: what is wrong with one, what it says in numbers, and one made of numbers.

Values proportional to light, which networks are not trained on, are recognised here, and the profile that fits the same
colours encoded with the sRGB curve is made. Knows nothing of files and pixels' layout.

Source: ICC.1 (profile format), IEC 61966-2-1 (the sRGB curve).
"""

import struct

import numpy as np

from nlsr.images.colour_space import SRGB, ColourSpace, xyz_of

_HEADER_SIZE = 128
_CURVES = (b"rTRC", b"gTRC", b"bTRC", b"kTRC")
_NAME = "The sRGB tone curve in place of a linear one"
_CHANNELS = {True: b"GRAY", False: b"RGB "}
_D50 = np.array([0.9642, 1.0, 0.8249])
# The cone response of Bradford, by which ICC.1 adapts colours to D50.
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_COLUMNS = (b"rXYZ", b"gXYZ", b"bXYZ")
# Steps of the curve's table; interpolated linearly, they are right to a millionth.
_CURVE_STEPS = 1024

Tags = dict[bytes, bytes]


def problem(profile: bytes) -> str | None:
    """Why a profile cannot be used, in words that follow "ICC profile"; None for a sound one."""
    try:
        (size,) = struct.unpack_from(">I", profile)
        entries = _entries(profile)
    except (struct.error, ValueError):
        return "is damaged"
    if profile[36:40] != b"acsp":
        return "is damaged"
    if size > len(profile) or any(offset + size > len(profile) for _, offset, size in entries):
        return "is cut short"
    return None


def is_for(profile: bytes, *, grey: bool) -> bool:
    """Whether a profile is one of grey or else of RGB."""
    return profile[16:20] == _CHANNELS[grey]


def for_channels(profile: bytes, *, grey: bool) -> bytes | None:
    """A profile for grey that shows what one for equal R, G and B does, or the other way round; None if there is none.

    Only profiles of tone curves have such a twin; the profile itself where it is one already.
    """
    if is_for(profile, grey=grey):
        return profile
    tags = _tags(profile)
    curves = [tags[name] for name in _CURVES if name in tags]
    if profile[16:20] not in _CHANNELS.values() or not curves or len(set(curves)) > 1 or b"A2B0" in tags:
        return None
    kept: Tags = {name: tags[name] for name in (b"desc", b"cprt", b"wtpt", b"chad") if name in tags}
    if grey:
        kept[b"kTRC"] = curves[0]
    else:  # any primaries do, as equal values lie on the line from black to white
        columns = _to_d50(SRGB)
        kept |= {name: _xyz(*columns[:, i]) for i, name in enumerate(_COLUMNS)}
        kept |= dict.fromkeys(_CURVES[:3], curves[0])
    header = profile[:16] + _CHANNELS[grey] + profile[20:84] + bytes(16) + profile[100:_HEADER_SIZE]
    return _assembled(header, kept)


def profile_of(space: ColourSpace, *, grey: bool) -> bytes:
    """A profile that says the same as numbers do, for a space whose curve is no PQ and no HLG.

    Raises: LinAlgError for primaries on a line.
    """
    text = f"{space}".encode("utf-16-be")
    words = struct.pack(">4s4xII2s2sII", b"mluc", 1, 12, b"en", b"US", len(text), 28) + text
    free = "No copyright".encode("utf-16-be")
    tags = {b"desc": words, b"cprt": struct.pack(">4s4xII2s2sII", b"mluc", 1, 12, b"en", b"US", len(free), 28) + free}
    tags |= {b"wtpt": _xyz(*_D50), b"chad": _numbers(b"sf32", *_adaptation(space).ravel())}
    if grey:
        tags[b"kTRC"] = _curve(space)
    else:
        columns = _to_d50(space)
        tags |= {name: _xyz(*columns[:, i]) for i, name in enumerate(_COLUMNS)}
        tags |= dict.fromkeys(_CURVES[:3], _curve(space))
        if space.codes:
            tags[b"cicp"] = struct.pack(">4s4xBBBB", b"cicp", *space.codes, 0, 1)
    header = struct.pack(">I4xI4s4s4s", 0, 0x04400000, b"mntr", _CHANNELS[grey], b"XYZ ")
    header += struct.pack(">6H4s", 2000, 1, 1, 0, 0, 0, b"acsp")  # a date of no meaning: equal spaces, equal bytes
    header = header.ljust(68, b"\0") + b"".join(_fixed(value) for value in _D50)
    return _assembled(header.ljust(_HEADER_SIZE, b"\0"), tags)


def disagrees(profile: bytes, space: ColourSpace) -> bool:
    """Whether a profile of primaries and tone curves says clearly other colours than numbers do."""
    try:
        tags = _tags(profile)
        curves = [tags[name] for name in _CURVES if name in tags]
        places = np.array([0.25, 0.5, 0.75])
        expected = space.light(places)
        if any(np.abs(_evaluated(curve, places) - expected).max() > 0.03 for curve in curves):
            return True
        if not all(name in tags for name in _COLUMNS):
            return False
        columns = np.array([np.frombuffer(tags[name], ">i4", 3, 8) / 65536 for name in _COLUMNS]).T
        return bool(np.abs(columns - _to_d50(space)).max() > 0.02)
    except (struct.error, ValueError, IndexError):
        return False


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
    curve = _curve(SRGB)
    tags |= {name: curve for name in _CURVES if name in tags}
    tags.pop(b"cicp", None)  # says "linear" in another way
    tags[b"desc"] = _description(version=profile[8])
    # The identity is a checksum that may be zero.
    return _assembled(profile[:84] + bytes(16) + profile[100:_HEADER_SIZE], tags)


def _tags(profile: bytes) -> Tags:
    return {name: profile[offset : offset + size] for name, offset, size in _entries(profile)}


def _entries(profile: bytes) -> list[tuple[bytes, int, int]]:
    (count,) = struct.unpack_from(">I", profile, _HEADER_SIZE)
    if count > 100:
        raise ValueError("no table of tags")
    return [struct.unpack_from(">4sII", profile, _HEADER_SIZE + 4 + 12 * i) for i in range(count)]


def _to_d50(space: ColourSpace) -> np.ndarray:
    """The matrix (3, 3) from linear R, G, B to the XYZ of a profile."""
    return _adaptation(space) @ space.to_xyz()


def _adaptation(space: ColourSpace) -> np.ndarray:
    white = xyz_of(np.array(space.chromaticities[:2]))
    return np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white)) @ _BRADFORD


def _curve(space: ColourSpace) -> bytes:
    """The exponent, or a table that lcms interpolates to a ten-thousandth."""
    if space.exponent is not None:
        return struct.pack(">4s4xHxx", b"para", 0) + _fixed(space.exponent)
    light = space.light(np.arange(_CURVE_STEPS) / (_CURVE_STEPS - 1))
    return struct.pack(">4s4xI", b"curv", _CURVE_STEPS) + np.rint(light * 65535).astype(">u2").tobytes()


def _evaluated(curve: bytes, places: np.ndarray) -> np.ndarray:
    """Light at some values by a tone curve of either kind."""
    kind, count = struct.unpack_from(">4s4xI", curve)
    if kind == b"curv" and count < 2:
        return np.power(places, struct.unpack_from(">H", curve, 12)[0] / 256 if count else 1.0)
    if kind == b"curv":
        table = np.frombuffer(curve, ">u2", count, 12) / 65535
        return np.interp(places, np.linspace(0, 1, count), table)
    shape = struct.unpack_from(">H", curve, 8)[0]
    number = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}[shape]
    g, a, b, c, d, e, f = [*np.frombuffer(curve, ">i4", number, 12) / 65536, *([0.0] * (7 - number))]
    if shape == 0:
        return np.power(places, g)
    if shape < 3:
        return np.where(places >= -b / a, np.power(np.maximum(a * places + b, 0), g), 0) + (c if shape == 2 else 0)
    return np.where(places >= d, np.power(np.maximum(a * places + b, 0), g) + e, c * places + f)


def _xyz(*values: float) -> bytes:
    return _numbers(b"XYZ ", *values)


def _numbers(kind: bytes, *values: float) -> bytes:
    return kind + bytes(4) + b"".join(map(_fixed, values))


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(65536 * value))


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
