"""JPEG XL: pixels by libjxl (imagecodecs), which neither tells nor takes what they mean there.

The header that says so, and the boxes of metadata, are read and written here.

Source: ISO/IEC 18181-1 (the header of a codestream, and how it keeps an ICC profile), 18181-2 (the boxes).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from nlsr.images.colour_space import BT709_LIKE, PRIMARIES, SRGB, ColourSpace, space_of_numbers
from nlsr.images.formats.boxes import box, boxes
from nlsr.images.formats.decoded import Beside, CheckSize, Decoded, Refusal, described
from nlsr.images.formats.jpeg_xl_bits import Bits
from nlsr.images.formats.jpeg_xl_profile import correct_guess, predicted_header, read_profile
from nlsr.images.formats.layout import FileLayout
from nlsr.images.formats.meaning import Claims

CODESTREAM = b"\xff\x0a"
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_TYPE = b"\0\0\0\x14ftypjxl \0\0\0\0jxl "

_RGB, _GREY, _XYB = 0, 1, 2
_CUSTOM, _D65, _E, _DCI = 2, 1, 10, 11
_WHITES = {_D65: (0.3127, 0.3290), _E: (1 / 3, 1 / 3), _DCI: (0.314, 0.351)}
_PRIMARIES = {1: 1, 9: 9, 11: 12}
"""Codes of H.273 whose red, green and blue are meant."""

_TRANSFERS = {1: 1, 8: 8, 13: 13, 16: 16, 17: 17, 18: 18}
_GAMMA_UNIT = 10**7
_ALPHA, _BLACK = 0, 4
_METADATA_LIMIT = 2**24
_EFFORT = 4
"""More takes many times as long for a few percent."""


_READING = 44
"""Bytes per pixel that are taken until a picture is read; its samples may be floating point with alpha."""


@dataclass
class Header:
    """What stands before the frames.

    Args:
        space: of the pixels; None where an ICC profile says it.
        profiled: whether there is one.
        xyb: the frames hold absolute colours, and libjxl gives those of `space`, or sRGB instead of a profile.
        has_more: whether the word about brightness stands behind the colours.
        colour_bits: where in the codestream the description of colours begins and ends, in bits.
    """

    width: int
    height: int
    animated: bool
    extra_kinds: list[int]
    grey: bool
    space: ColourSpace | None
    profiled: bool
    xyb: bool
    has_more: bool
    colour_bits: tuple[int, int]


# Reading


def decode_jpeg_xl(file: BinaryIO, check_size: CheckSize) -> Decoded:
    """The first frame; libjxl has turned it upright already."""
    import imagecodecs

    data = file.read()
    codestream, beside = _opened(data)
    header = read_header(codestream)
    check_size(header.width, header.height, alpha=_ALPHA in header.extra_kinds, reading=_READING)
    if _BLACK in header.extra_kinds:
        raise Refusal("expected grey or RGB pixels, got CMYK in JPEG XL; convert it to RGB")
    samples = imagecodecs.jpegxl_decode(data, index=0)
    samples = samples.reshape(*samples.shape[:2], -1)
    colours = 1 if header.grey else 3
    kept = colours + (_ALPHA in header.extra_kinds)
    if samples.ndim != 3 or samples.shape[2] < kept:
        raise ValueError(f"{kept} channels announced, samples of {samples.shape} found")
    if samples.shape[2] > kept:
        beside.notes.append(f"extra channels dropped: {samples.shape[2] - kept}")
    if header.animated:
        beside.notes.append("animated file: first frame taken")
    samples = samples[:, :, :kept]
    if header.profiled and not header.xyb:
        _read_profile(codestream, header, beside)
    if header.space is not None:
        space = header.space
        beside.claims = Claims(codes=space.codes, codes_in="JPEG XL")
        beside.claims.chromaticities, beside.claims.exponent = space.chromaticities, space.exponent
    return described(_with_depth(samples, beside), beside, "JPEG XL")


def _read_profile(codestream: bytes, header: Header, beside: Beside) -> None:
    """Behind the rest of the header, where that is as usual."""
    bits = Bits(codestream, header.colour_bits[1])
    try:
        if header.has_more and not bits.take(1):  # how bright it was meant
            bits.take(32)
            bits.take(1)
            bits.take(16)
        if bits.long() or not bits.take(1):
            raise ValueError("a header with extensions or transforms of its own")
        beside.claims = Claims(read_profile(bits))
    except (ValueError, IndexError) as error:
        beside.notes.append(f"ICC profile cannot be read ({error}): dropped")


def _with_depth(samples: np.ndarray, beside: Beside) -> Decoded:
    if np.issubdtype(samples.dtype, np.floating):
        samples = samples.astype(np.float32)
        if not np.isfinite(samples).all() or samples.min() < 0 or samples.max() > 1:
            beside.notes.append("values beyond 0..1 clipped")
            samples = np.nan_to_num(samples).clip(0, 1)
        return Decoded(samples, 1.0, 32)
    return Decoded(samples, float(np.iinfo(samples.dtype).max), 8 * samples.dtype.itemsize)


def _opened(data: bytes) -> tuple[bytes, Beside]:
    """The beginning of the codestream, and what the boxes hold."""
    beside = Beside(upright=True)
    if data.startswith(CODESTREAM):
        return data, beside
    codestream = b""
    for found, start, end in boxes(data):
        kind, content = found, data[start:end]
        if found == b"brob" and content[:4] in (b"Exif", b"xml "):
            kind, content = content[:4], _unpacked(content[4:])
        if kind == b"jxlc":
            codestream = codestream or content
        elif kind == b"jxlp":
            codestream += content[4:]
        elif kind == b"Exif" and len(content) > 4:
            (offset,) = struct.unpack_from(">I", content)
            beside.exif = beside.exif or content[4 + offset :]
        elif kind == b"xml ":
            beside.xmp = beside.xmp or content
        elif kind == b"jhgm":
            beside.notes.append("the gain map is dropped, the picture without it kept")
    return codestream, beside


def _unpacked(content: bytes) -> bytes:
    """Brotli; nothing for damage and for what grows too large."""
    import imagecodecs

    try:
        return bytes(imagecodecs.brotli_decode(content, out=bytearray(_METADATA_LIMIT)))
    except (imagecodecs.BrotliError, MemoryError):
        return b""


def read_header(codestream: bytes) -> Header:
    """Raises: ValueError for what is no header."""
    if codestream[:2] != CODESTREAM:
        raise ValueError("no JPEG XL codestream")
    bits = Bits(codestream, 16)
    width, height = _read_size(bits)
    header = Header(width, height, False, [], False, ColourSpace(), False, True, False, (0, 0))
    if bits.take(1):  # everything as usual
        return header
    orientation = 1
    header.has_more = bool(bits.take(1))
    if header.has_more:
        orientation = bits.take(3) + 1
        if bits.take(1):
            _read_size(bits)
        if bits.take(1):
            _read_preview(bits)
        header.animated = bool(bits.take(1))
        if header.animated:
            _skip_animation(bits)
    if orientation >= 5:
        header.width, header.height = height, width
    _skip_depth(bits)
    bits.take(1)
    count = bits.number((0, 0), (0, 1), (4, 2), (12, 1))
    header.extra_kinds = [_read_extra_channel(bits) for _ in range(count)]
    header.xyb = bool(bits.take(1))
    start = bits.position
    _read_colours(bits, header)
    header.colour_bits = start, bits.position
    return header


_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


def _read_size(bits: Bits) -> tuple[int, int]:
    """Width and height."""
    small = bits.take(1)

    def side() -> int:
        return 8 * (bits.take(5) + 1) if small else bits.number((9, 1), (13, 1), (18, 1), (30, 1))

    height = side()
    ratio = bits.take(3)
    if ratio == 0:
        return side(), height
    return height * _RATIOS[ratio][0] // _RATIOS[ratio][1], height


def _read_preview(bits: Bits) -> None:
    choices = ((0, 16), (0, 32), (5, 1), (9, 33)) if bits.take(1) else ((6, 1), (8, 65), (10, 321), (12, 1345))
    bits.number(*choices)
    if bits.take(3) == 0:
        bits.number(*choices)


def _skip_animation(bits: Bits) -> None:
    bits.number((0, 100), (0, 1000), (10, 1), (30, 1))
    bits.number((0, 1), (0, 1001), (8, 1), (10, 1))
    bits.number((0, 0), (3, 0), (16, 0), (32, 0))
    bits.take(1)


def _skip_depth(bits: Bits) -> None:
    if bits.take(1):
        bits.number((0, 32), (0, 16), (0, 24), (6, 1))
        bits.take(4)
    else:
        bits.number((0, 8), (0, 10), (0, 12), (6, 1))


def _read_extra_channel(bits: Bits) -> int:
    """Its kind."""
    if bits.take(1):
        return _ALPHA
    kind = bits.enumerated()
    _skip_depth(bits)
    bits.number((0, 0), (0, 3), (0, 4), (3, 1))
    bits.take(8 * bits.number((0, 0), (4, 0), (5, 16), (10, 48)))  # a name
    if kind == _ALPHA:
        bits.take(1)
    elif kind == 2:  # a spot colour
        bits.take(64)
    elif kind == 5:
        bits.number((0, 1), (2, 0), (4, 3), (8, 19))
    return kind


def _read_colours(bits: Bits, header: Header) -> None:
    if bits.take(1):
        return
    header.profiled = bool(bits.take(1))
    kind = bits.enumerated()
    header.grey = kind == _GREY
    if header.profiled:
        header.space = None
        return
    if kind == _XYB:
        raise ValueError("a codestream of XYB values without a profile")
    number = bits.enumerated()
    white = _read_point(bits) if number == _CUSTOM else _WHITES[number]
    points: tuple[float, ...] = PRIMARIES[1][2:]
    if not header.grey:
        number = bits.enumerated()
        if number == _CUSTOM:
            points = sum((_read_point(bits) for _ in range(3)), ())
        else:
            points = PRIMARIES[_PRIMARIES[number]][2:]
    exponent = transfer = None
    if bits.take(1):
        exponent = round(_GAMMA_UNIT / max(bits.take(24), 1), 5)
    else:
        transfer = _TRANSFERS[bits.enumerated()]
    bits.enumerated()
    space = space_of_numbers((*white, *points), exponent)  # type: ignore[arg-type]
    header.space = space if transfer is None else ColourSpace(space.primaries, transfer)


def _read_point(bits: Bits) -> tuple[float, ...]:
    packed = [bits.number((19, 0), (19, 524288), (20, 1048576), (21, 2097152)) for _ in range(2)]
    return tuple((-((value + 1) // 2) if value & 1 else value // 2) / 1e6 for value in packed)


# Writing


def jpeg_xl(samples: np.ndarray, layout: FileLayout, quality: int) -> bytes:
    """A file of these samples: with loss below quality 100, where they are 8-bit sRGB, else without any.

    A loss is measured in absolute colours, and imagecodecs takes 8 bits for sRGB and more for linear light.
    """
    import imagecodecs

    space = SRGB if layout.space is None else layout.space
    flat = samples[:, :, 0] if layout.channels == 1 else samples
    if space.is_srgb and layout.profile is None and layout.depth == 8:
        loss = {"lossless": True} if quality == 100 else {"distance": _distance(quality)}
        codestream = _opened(bytes(imagecodecs.jpegxl_encode(flat, effort=_EFFORT, **loss)))[0]
    else:
        codestream = _opened(bytes(imagecodecs.jpegxl_encode(flat, effort=_EFFORT, lossless=True)))[0]
        codestream = with_colours(codestream, space, layout.profile, grey=layout.grey)
    metadata = []
    if layout.exif:
        metadata.append(box(b"Exif", bytes(4), layout.exif))
    if layout.xmp:
        metadata.append(box(b"xml ", layout.xmp))
    # Deep samples need level 10 of the codestream, which a box announces.
    level = [box(b"jxll", b"\x0a")] if layout.depth > 8 else []
    return b"".join([CONTAINER, _TYPE, *level, *metadata, box(b"jxlc", codestream)])


def _distance(quality: int) -> float:
    """In units of what is just noticed, as cjxl takes a quality."""
    return 0.1 + (100 - quality) * 0.09 if quality >= 30 else 53 / 3000 * quality**2 - 23 / 20 * quality + 25


def with_colours(codestream: bytes, space: ColourSpace | None, profile: bytes | None, *, grey: bool) -> bytes:
    """A codestream that libjxl wrote without loss, with another word about what its values mean."""
    header = read_header(codestream)
    assert not header.xyb
    start, end = header.colour_bits
    bits = Bits(codestream, end)
    assert bits.take(3) == 0b100, "neither extensions nor other transforms"
    frames = -(-bits.position // 8)
    written = _Writer(int.from_bytes(codestream[:frames], "little") & ((1 << start) - 1), start)
    if profile is not None:
        written.put(0b10, 2)  # not as usual, with a profile
        written.enumerated(_GREY if grey else _RGB)
    else:
        assert space is not None
        _write_space(written, space, grey)
    written.put(0b100, 3)
    if profile is not None:
        _write_profile(written, profile)
    return written.bytes() + codestream[frames:]


class _Writer:
    def __init__(self, value: int, size: int) -> None:
        self.value, self.size = value, size

    def put(self, value: int, count: int) -> None:
        self.value |= value << self.size
        self.size += count

    def enumerated(self, value: int) -> None:
        if value < 2:
            self.put(value, 2)
        elif value < 18:
            self.put(2 | (value - 2) << 2, 6)
        else:
            self.put(3 | (value - 18) << 2, 8)

    def bytes(self) -> bytes:
        return self.value.to_bytes(-(-self.size // 8), "little")


def _write_space(written: _Writer, space: ColourSpace, grey: bool) -> None:
    numbers = space.chromaticities
    written.put(0, 2)  # not as usual, without a profile
    written.enumerated(_GREY if grey else _RGB)
    white = next((code for code, xy in _WHITES.items() if np.allclose(xy, numbers[:2], atol=1e-5)), _CUSTOM)
    written.enumerated(white)
    if white == _CUSTOM:
        _write_point(written, numbers[:2])
    if not grey:
        named = next((code for code, h273 in _PRIMARIES.items() if PRIMARIES[h273][2:] == numbers[2:]), _CUSTOM)
        written.enumerated(named)
        if named == _CUSTOM:
            for i in (2, 4, 6):
                _write_point(written, numbers[i : i + 2])
    curve = 1 if space.transfer in BT709_LIKE else space.transfer
    if curve in _TRANSFERS:
        written.put(0, 1)
        written.enumerated(int(curve))
    else:
        # The curve of SMPTE 240M has no code: what comes nearest is the power.
        written.put(1 | round(_GAMMA_UNIT / (space.exponent or 2.2)) << 1, 25)
    written.enumerated(1)  # relative colorimetric


def _write_point(written: _Writer, point: Sequence[float]) -> None:
    for value in point:
        scaled = round(value * 1e6)
        packed = 2 * scaled if scaled >= 0 else -2 * scaled - 1
        choice = next(i for i, most in enumerate((524288, 1048576, 2097152, 4194304)) if packed < most)
        size, added = ((19, 0), (19, 524288), (20, 1048576), (21, 2097152))[choice]
        written.put(choice | (packed - added) << 2, 2 + size)


def _write_profile(written: _Writer, profile: bytes) -> None:
    """As bytes of eight bits each, which is allowed, and small enough beside pixels."""
    guess = predicted_header(len(profile))
    for place in range(128):
        correct_guess(guess, profile[:place])
    difference = bytes((value - guess) % 256 for value, guess in zip(profile[:128], guess, strict=True))
    commands = _varint(0) + b"\1" + _varint(len(profile) - 128)  # no table of tags, insert all
    content = _varint(len(profile)) + _varint(len(commands)) + commands + difference + profile[128:]
    size = len(content)
    written.put(3 | (size & 0xFFF) << 2, 14)
    rest = size >> 12
    while rest:
        written.put(1 | (rest & 0xFF) << 1, 9)
        rest >>= 8
    written.put(0, 1)
    written.put(0, 1)  # no repeated pieces
    written.put(0b001, 3)  # one code for all contexts: a simple map of zero bits
    written.put(1, 1)  # prefix codes
    written.put(15, 4)  # values are their own symbols
    written.put(1 | 7 << 1 | 127 << 5, 12)  # 256 of them
    # A code of Brotli: none of the lengths skipped; the only length that occurs is 8, so that each takes no bits.
    written.put(0, 2)
    for length in (1, 2, 3, 4, 0, 5, 17, 6, 16, 7, 8):
        value, count = (0b0111, 4) if length == 8 else (0b00, 2)
        written.put(value, count)
    for _ in (9, 10, 11, 12, 13, 14, 15):
        written.put(0b00, 2)
    codes = int.from_bytes(bytes(_REVERSED[value] for value in content), "little")
    written.put(codes, 8 * size)


_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
