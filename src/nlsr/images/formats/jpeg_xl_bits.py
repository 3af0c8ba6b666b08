"""Bits of a JPEG XL codestream, and the entropy code of the ICC profile in it. Knows nothing of pictures.

Source: ISO/IEC 18181-1, annexes B (header syntax) and C (entropy decoding).
"""

from collections.abc import Callable

_STATES, _RANGE = 12, 4096


class Bits:
    """Bits from the lowest of each byte on."""

    def __init__(self, data: bytes, position: int) -> None:
        self.data, self.position = data, position

    def take(self, count: int) -> int:
        """Raises: ValueError behind the end."""
        start, end = self.position // 8, -(-(self.position + count) // 8)
        if end > len(self.data):
            raise ValueError("the header is cut short")
        value = int.from_bytes(self.data[start:end], "little") >> (self.position % 8)
        self.position += count
        return value & ((1 << count) - 1)

    def number(self, *choices: tuple[int, int]) -> int:
        """A number in one of four ways: so many bits, and what is added."""
        size, added = choices[self.take(2)]
        return self.take(size) + added

    def enumerated(self) -> int:
        return self.number((0, 0), (0, 1), (4, 2), (6, 18))

    def long(self) -> int:
        """A number of up to 64 bits."""
        choice = self.take(2)
        if choice < 3:
            return (0, 1 + self.take(4) if choice == 1 else 0, 17 + self.take(8) if choice == 2 else 0)[choice]
        value, shift = self.take(12), 12
        while shift < 64 and self.take(1):
            value |= self.take(8 if shift < 60 else 4) << shift
            shift += 8
        return value

    def short(self, size: int) -> int:
        """A small number whose length, a number of so many bits, stands in front."""
        if not self.take(1):
            return 0
        count = self.take(size)
        return self.take(count) + (1 << count)


class Entropy:
    """Reads numbers, each in a context that decides about its code."""

    def __init__(self, bits: Bits, contexts: int) -> None:
        self.bits = bits
        self.repeats = bool(bits.take(1))
        if self.repeats:
            self.first_length = bits.number((0, 224), (0, 512), (0, 4096), (15, 8))
            self.least_length = bits.number((0, 3), (0, 4), (2, 5), (8, 9))
            self.length_split = _split(bits, 8)
            contexts += 1
        self.codes_of = _codes_of(bits, contexts) if contexts > 1 else [0]
        prefixes = bool(bits.take(1))
        log_size = 15 if prefixes else 5 + bits.take(2)
        count = max(self.codes_of) + 1
        self.splits = [_split(bits, log_size) for _ in range(count)]
        if prefixes:
            sizes = [bits.short(4) + 1 for _ in range(count)]
            self.symbol_readers = [_prefix_reader(bits, size) for size in sizes]
        else:
            tables = [_alias_table(_histogram(bits), log_size) for _ in range(count)]
            self.symbol_readers = [self._state_reader(table, log_size) for table in tables]
            self.state = bits.take(32)
        self.read: list[int] = []
        self.copied = self.place = 0

    def number(self, context: int) -> int:
        """The next number. Raises: ValueError for what no writer writes."""
        if self.copied == 0:
            code = self.codes_of[context]
            symbol = self.symbol_readers[code]()
            if not self.repeats or symbol < self.first_length:
                self.read.append(self._whole(symbol, self.splits[code]))
                return self.read[-1]
            self.copied = self._whole(symbol - self.first_length, self.length_split) + self.least_length
            code = self.codes_of[-1]
            distance = self._whole(self.symbol_readers[code](), self.splits[code]) + 1
            self.place = len(self.read) - min(distance, len(self.read))
        self.copied -= 1
        self.read.append(self.read[self.place] if self.place < len(self.read) else 0)
        self.place += 1
        return self.read[-1]

    def _whole(self, symbol: int, split: tuple[int, int, int]) -> int:
        """A symbol stands for itself, or for the leading and the last bits of a number."""
        exponent, leading, last = split
        if symbol < 1 << exponent:
            return symbol
        count = exponent - leading - last + ((symbol - (1 << exponent)) >> (leading + last))
        if count > 32:
            raise ValueError("a number of too many bits")
        low = symbol & ((1 << last) - 1)
        high = (1 << leading) | ((symbol >> last) & ((1 << leading) - 1))
        return ((high << count | self.bits.take(count)) << last) | low

    def _state_reader(self, table: list[tuple[int, int, int]], log_size: int) -> Callable[[], int]:
        def read() -> int:
            symbol, offset, share = table[self.state % _RANGE]
            self.state = (self.state >> _STATES) * share + offset
            if self.state < 1 << 16:
                self.state = self.state << 16 | self.bits.take(16)
            return symbol

        return read


def _split(bits: Bits, log_size: int) -> tuple[int, int, int]:
    exponent = bits.take(log_size.bit_length())
    if exponent == log_size:
        return exponent, 0, 0
    leading = bits.take(exponent.bit_length())
    if leading > exponent:
        raise ValueError("no way to split a number")
    last = bits.take((exponent - leading).bit_length())
    if leading + last > exponent:
        raise ValueError("no way to split a number")
    return exponent, leading, last


def _codes_of(bits: Bits, contexts: int) -> list[int]:
    """The number of its code for each context."""
    if bits.take(1):
        size = bits.take(2)
        return [bits.take(size) for _ in range(contexts)]
    moved = bits.take(1)
    entropy = Entropy(bits, 1)
    numbers = [entropy.number(0) for _ in range(contexts)]
    if max(numbers) > 255:
        raise ValueError("too many codes")
    if not moved:
        return numbers
    recent, codes = list(range(256)), []
    for number in numbers:
        codes.append(recent.pop(number))
        recent.insert(0, codes[-1])
    return codes


# Shares of symbols (asymmetric numeral systems)


def _histogram(bits: Bits) -> list[int]:
    """How many of 4096 parts each symbol has."""
    if bits.take(1):
        symbols = [bits.short(3) for _ in range(bits.take(1) + 1)]
        counts = [0] * (max(symbols) + 1)
        if len(symbols) == 1:
            counts[symbols[0]] = _RANGE
        else:
            counts[symbols[0]] = bits.take(_STATES)
            counts[symbols[1]] = _RANGE - counts[symbols[0]]
    elif bits.take(1):
        size = bits.short(3) + 1
        counts = [_RANGE // size + (i < _RANGE % size) for i in range(size)]
    else:
        counts = _written_histogram(bits)
    if sum(counts) != _RANGE or min(counts) < 0:
        raise ValueError("shares that do not make a whole")
    return counts


# Bits, from the lowest on, of the codes for 0 to 13.
_LOGARITHM_CODES = ["10001", "1101", "1111", "1100", "1001", "1110", "001", "010", "101", "011", "000", "100001"]
_LOGARITHM_CODES += ["1000000", "1000001"]
_SAME = 13


def _written_histogram(bits: Bits) -> list[int]:
    width = 0
    while width < 3 and bits.take(1):
        width += 1
    precision = (bits.take(width) | 1 << width) - 1
    size = bits.short(3) + 3
    logarithms: list[int] = [0] * size
    same: dict[int, int] = {}
    position = 0
    while position < size:
        value = _by_code(bits, _LOGARITHM_CODES)
        if value == _SAME:
            same[position] = bits.short(3) + 4
            position += same[position]
        else:
            logarithms[position] = value
            position += 1
    omitted = logarithms.index(max(logarithms))
    counts = [0] * size
    repeated = previous = 0
    for i in range(size):
        if i in same:
            repeated, previous = same[i], counts[i - 1] if i else 0
        if repeated:
            counts[i], repeated = previous, repeated - 1
        elif i != omitted and logarithms[i]:
            log = logarithms[i] - 1
            count = max(0, min(log, precision - ((_STATES - log) >> 1)))
            counts[i] = (1 << log) + (bits.take(count) << (log - count))
    counts[omitted] = _RANGE - sum(counts)
    return counts


def _by_code(bits: Bits, codes: list[str]) -> int:
    code = ""
    while code not in codes:
        code += str(bits.take(1))
        if len(code) > 7:
            raise ValueError("no code")
    return codes.index(code)


def _alias_table(counts: list[int], log_size: int) -> list[tuple[int, int, int]]:
    """Symbol, offset and share for each of the 4096 values of a state."""
    size, entry = 1 << log_size, _RANGE >> log_size
    if len(counts) > size:
        raise ValueError("too many symbols")
    if _RANGE in counts:
        return [(counts.index(_RANGE), state, _RANGE) for state in range(_RANGE)]
    counts = counts + [0] * (size - len(counts))
    cutoffs = list(counts)
    others, offsets = list(range(size)), [0] * size
    over = [i for i in range(size) if cutoffs[i] > entry]
    under = [i for i in range(size) if cutoffs[i] < entry]
    while over:
        giver, taker = over.pop(), under.pop()
        cutoffs[giver] -= entry - cutoffs[taker]
        others[taker], offsets[taker] = giver, cutoffs[giver]
        if cutoffs[giver] != entry:
            (under if cutoffs[giver] < entry else over).append(giver)
    table = []
    for i in range(size):
        for place in range(entry):
            if place < cutoffs[i]:
                table.append((i, place, counts[i]))
            else:
                table.append((others[i], offsets[i] - cutoffs[i] + place, counts[others[i]]))
    return table


# Prefix codes, as Brotli writes them (RFC 7932, 3)

_ORDER = (1, 2, 3, 4, 0, 5, 17, 6, 16, 7, 8, 9, 10, 11, 12, 13, 14, 15)
_LENGTH_CODES = ["00", "1110", "110", "01", "10", "1111"]


def _prefix_reader(bits: Bits, size: int) -> Callable[[], int]:
    if size == 1:
        return lambda: 0
    skipped = bits.take(2)
    lengths = [0] * size
    if skipped == 1:
        count = bits.take(2) + 1
        symbols = [bits.take((size - 1).bit_length()) for _ in range(count)]
        if max(symbols) >= size or len(set(symbols)) < count:
            raise ValueError("no such symbols")
        shape = {1: (0,), 2: (1, 1), 3: (1, 2, 2), 4: (2, 2, 2, 2)}[count]
        if count == 4 and bits.take(1):
            shape = (1, 2, 3, 3)
        if count == 1:
            return lambda: symbols[0]
        for symbol, length in zip(symbols, shape, strict=True):
            lengths[symbol] = length
    else:
        _read_lengths(bits, skipped, lengths)
    return _canonical_reader(bits, lengths)


def _read_lengths(bits: Bits, skipped: int, lengths: list[int]) -> None:
    of_lengths, room = [0] * 18, 32
    for place in _ORDER[skipped:]:
        if room <= 0:
            break
        of_lengths[place] = _by_code(bits, _LENGTH_CODES)
        room -= 32 >> of_lengths[place] if of_lengths[place] else 0
    read = _canonical_reader(bits, of_lengths)
    symbol, room, previous, repeated, repeated_length = 0, 1 << 15, 8, 0, 0
    while symbol < len(lengths) and room > 0:
        length = read()
        if length < 16:
            lengths[symbol], repeated = length, 0
            symbol += 1
            if length:
                previous, room = length, room - ((1 << 15) >> length)
            continue
        wanted = previous if length == 16 else 0
        if wanted != repeated_length:
            repeated, repeated_length = 0, wanted
        before = repeated
        repeated = ((repeated - 2) << (length - 14) if repeated else 0) + bits.take(length - 14) + 3
        count = repeated - before
        if symbol + count > len(lengths):
            raise ValueError("more lengths than symbols")
        lengths[symbol : symbol + count] = [wanted] * count
        symbol += count
        room -= count << (15 - wanted) if wanted else 0


def _canonical_reader(bits: Bits, lengths: list[int]) -> Callable[[], int]:
    used = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
    if not used:
        raise ValueError("a code without symbols")
    if len(used) == 1:
        return lambda: used[0][1]
    symbols: dict[tuple[int, int], int] = {}
    code = before = 0
    for length, symbol in used:
        code <<= length - before
        symbols[length, code] = symbol
        code, before = code + 1, length
    longest = used[-1][0]

    def read() -> int:
        found, code = None, 0
        for length in range(1, longest + 1):
            code = code << 1 | bits.take(1)
            found = symbols.get((length, code))
            if found is not None:
                return found
        raise ValueError("no code")

    return read
