"""ICC profiles as a JPEG XL codestream keeps them: predicted, and packed by its entropy code.

Source: ISO/IEC 18181-1, annex E.4.
"""

import struct

from nlsr.images.formats.jpeg_xl_bits import Bits, Entropy

_LIMIT = 2**20
"""Bytes of a profile that is read; larger ones are dropped."""

_CONTEXTS = 41
_TAGS = [b"cprt", b"wtpt", b"bkpt", b"rXYZ", b"gXYZ", b"bXYZ", b"kXYZ", b"rTRC", b"gTRC", b"bTRC", b"kTRC", b"chad"]
_TAGS += [b"desc", b"chrm", b"dmnd", b"dmdd", b"lumi"]
_KINDS = [b"XYZ ", b"desc", b"text", b"mluc", b"para", b"curv", b"sf32", b"gbd "]
_POINTS = (b"rXYZ", b"gXYZ", b"bXYZ", b"kXYZ", b"wtpt", b"bkpt", b"lumi")
_HEADER_SIZE = 128


def read_profile(bits: Bits) -> bytes:
    """The profile that begins at these bits. Raises: ValueError for damage and for a profile that is too large."""
    size = bits.long()
    if size > _LIMIT:
        raise ValueError("a profile that is too large")
    entropy = Entropy(bits, _CONTEXTS)
    packed = bytearray(2)
    for i in range(size):
        value = entropy.number(_context(i, packed[-1], packed[-2]))
        if value > 255:
            raise ValueError("a byte of more than 8 bits")
        packed.append(value)
    return _unpredicted(bytes(packed[2:]))


def _context(i: int, last: int, before: int) -> int:
    return 0 if i <= _HEADER_SIZE else 1 + _kind(last) + 8 * _kind_before(before)


def _kind(byte: int) -> int:
    if chr(byte).isascii() and chr(byte).isalnum():
        return 1 if chr(byte).isdigit() else 0
    if byte in b".,":
        return 1
    if byte < 2:
        return 2 + byte
    return 4 if byte < 16 else 6 if byte == 255 else 5 if byte > 240 else 7


def _kind_before(byte: int) -> int:
    kind = _kind(byte)
    return kind if kind < 2 else 2 if byte < 16 else 3 if byte > 240 else 4


class _Stream:
    """Bytes that are taken from the front."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def take(self, count: int) -> bytes:
        if self.position + count > len(self.data):
            raise ValueError("a profile that is cut short")
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self) -> int:
        value = shift = 0
        while True:
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 32:
                raise ValueError("a number of too many bytes")

    @property
    def is_empty(self) -> bool:
        return self.position == len(self.data)


def _unpredicted(packed: bytes) -> bytes:
    stream = _Stream(packed)
    size = stream.number()
    if size > _LIMIT:
        raise ValueError("a profile that is too large")
    commands = _Stream(stream.take(stream.number()))
    content = _Stream(stream.data[stream.position :])
    profile = bytearray()
    guess = predicted_header(size)
    for i in range(min(size, _HEADER_SIZE)):
        correct_guess(guess, profile)
        profile.append((content.take(1)[0] + guess[i]) % 256)
    if size > _HEADER_SIZE:
        _append_tags(profile, commands, content)
    while not commands.is_empty and len(profile) <= size:
        _append_piece(profile, commands, content)
    if len(profile) != size:
        raise ValueError("a profile of another size than announced")
    return bytes(profile)


def predicted_header(size: int) -> bytearray:
    header = bytearray(_HEADER_SIZE)
    header[:4] = struct.pack(">I", size)
    header[8:24] = b"\4\0\0\0mntrRGB XYZ "
    header[36:40], header[68:80] = b"acsp", b"\0\0\xf6\xd6\0\1\0\0\0\0\xd3\x2d"
    return header


def correct_guess(guess: bytearray, known: bytes | bytearray) -> None:
    """What the bytes before this place tell of the following ones."""
    if len(known) == 8:
        guess[80:84] = known[4:8]
    elif len(known) == 41:
        guess[41:44] = {b"A": b"PPL", b"M": b"SFT"}.get(bytes(known[40:41]), guess[41:44])
    elif len(known) == 42:
        guess[42:44] = {b"SG": b"I ", b"SU": b"NW"}.get(bytes(known[40:42]), guess[42:44])


def _append_tags(profile: bytearray, commands: _Stream, content: _Stream) -> None:
    count = commands.number()
    if count == 0:
        return
    profile += struct.pack(">I", count - 1)
    start, size = _HEADER_SIZE + 12 * (count - 1), 0

    while not commands.is_empty and len(profile) <= _LIMIT:
        (command,) = commands.take(1)
        code = command & 63
        if code == 0:
            return
        if code > 3 + len(_TAGS):
            raise ValueError("an unknown tag")
        name = content.take(4) if code == 1 else b"rTRC" if code == 2 else b"rXYZ" if code == 3 else _TAGS[code - 4]
        start = commands.number() if command & 64 else start + size
        size = commands.number() if command & 128 else 20 if name in _POINTS else size
        if max(start, size) > _LIMIT:
            raise ValueError("a tag beyond the profile")
        profile += name + struct.pack(">II", start, size)
        if code == 2:
            profile += b"".join(other + struct.pack(">II", start, size) for other in (b"gTRC", b"bTRC"))
        elif code == 3:
            profile += b"gXYZ" + struct.pack(">II", start + size, size)
            profile += b"bXYZ" + struct.pack(">II", start + 2 * size, size)


def _append_piece(profile: bytearray, commands: _Stream, content: _Stream) -> None:
    (command,) = commands.take(1)
    if command == 1:
        profile += content.take(commands.number())
    elif command in (2, 3):
        profile += _shuffled(content.take(commands.number()), 2 * command - 2)
    elif command == 4:
        _append_predicted(profile, commands, content)
    elif command == 10:
        profile += b"XYZ \0\0\0\0" + content.take(12)
    elif 16 <= command < 16 + len(_KINDS):
        profile += _KINDS[command - 16] + bytes(4)
    else:
        raise ValueError("an unknown command")


def _shuffled(data: bytes, width: int) -> bytes:
    """Bytes that were sorted by their place in a number, in numbers again."""
    rows = -(-len(data) // width)
    return bytes(data[i] for start in range(rows) for i in range(start, len(data), rows))


def _append_predicted(profile: bytearray, commands: _Stream, content: _Stream) -> None:
    (flags,) = commands.take(1)
    width, order = (flags & 3) + 1, (flags >> 2) & 3
    stride = commands.number() if flags & 16 else width
    if width == 3 or order == 3 or stride < width or 4 * stride >= len(profile):
        raise ValueError("no way to predict")
    data = content.take(commands.number())
    shuffled = _shuffled(data, width) if width > 1 else data
    start = len(profile)
    for i, byte in enumerate(shuffled):
        place = start + i // width * width
        first, second, third = (
            int.from_bytes(profile[place - n * stride : place - n * stride + width], "big") for n in (1, 2, 3)
        )
        value = (first, 2 * first - second, 3 * first - 3 * second + third)[order]
        profile.append((byte + (value >> 8 * (width - 1 - i % width))) % 256)
