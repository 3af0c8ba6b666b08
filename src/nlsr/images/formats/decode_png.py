"""PNG: its chunks are read here, and its pixels by Pillow, or by libpng (imagecodecs) where there are 16 bits of them.

Both get nothing but pixels: Pillow would drop 16 bits to 8 and refuse a picture for a long text, libpng prints about
chunks it dislikes. Chunks beside the pixels may stand before or behind them.

Source: the PNG specification, third edition.
"""

import io
import os
import struct
import zlib
from typing import BinaryIO

import numpy as np
from PIL import PngImagePlugin

from nlsr.images.formats import metadata
from nlsr.images.formats.decoded import READING, Beside, CheckSize, Decoded, Refusal, described, lies_on_its_side
from nlsr.images.formats.meaning import Claims
from nlsr.images.formats.pillow_pixels import samples_of

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
METRE = 0.0254
"""An inch in metres."""

XMP_KEYWORD = "XML:com.adobe.xmp"
_DEEP_READING = 34
"""Bytes per pixel that are taken until a picture of 16 bits is read: chunks, packed and not; measured."""
_RAW_PROFILE = "Raw profile type "

Chunk = tuple[bytes, bytes]
"""Kind and content."""


def decode_png(file: BinaryIO, check_size: CheckSize) -> Decoded:
    """The first image of a PNG."""
    notes: list[str] = []
    known = _before_pixels(file)
    width, height, depth, colour, compression, filtering, interlaced = struct.unpack(">IIBBBBB", known[b"IHDR"])
    alpha, deep = colour in (4, 6) or b"tRNS" in known, depth == 16
    check_size(
        width,
        height,
        alpha=alpha,
        depth=16 if deep else 8,
        turned=lies_on_its_side(known.get(b"eXIf")),
        reading=_DEEP_READING if deep else READING + 4 * alpha,
    )
    chunks = _png_chunks(file.read(), notes)
    if compression or filtering or interlaced > 1:
        raise ValueError("unknown method of compression, filtering or interlacing")
    frames = next((struct.unpack(">I", data[:4])[0] for kind, data in chunks if kind == b"acTL" and len(data) > 3), 1)
    beside = _beside(chunks)
    if frames > 1:
        notes.append(f"animated file of {frames} frames: first frame taken")
    beside.notes = notes + beside.notes
    if depth == 16:
        samples = _deep_samples(chunks, width, height, colour, interlaced)
        decoded = Decoded(samples, 65535.0, 16)
    else:
        decoded = Decoded(_samples(chunks), 255.0, 8)
    _widen(decoded, chunks)
    return described(decoded, beside, "PNG")


def _before_pixels(file: BinaryIO) -> dict[bytes, bytes]:
    """The chunks before the pixels, by kind; the file is left at its start."""
    chunks: dict[bytes, bytes] = {}
    file.seek(len(PNG_SIGNATURE))
    while len(start := file.read(8)) == 8 and start[4:] != b"IDAT":
        size, kind = struct.unpack(">I4s", start)
        chunks[kind] = file.read(size)
        file.seek(4, os.SEEK_CUR)  # the checksum, which is looked at with those of the pixels
    file.seek(0)
    return chunks


def _png_chunks(data: bytes, notes: list[str]) -> list[Chunk]:
    """Refuses damage in what pixels need; what else is damaged is left out with a note."""
    chunks: list[Chunk] = []
    position = len(PNG_SIGNATURE)
    damaged: list[str] = []
    while not chunks or chunks[-1][0] != b"IEND":
        size, kind = struct.unpack_from(">I4s", data, position)
        content = data[position + 8 : position + 8 + size]
        (checksum,) = struct.unpack_from(">I", data, position + 8 + size)
        if checksum == zlib.crc32(content, zlib.crc32(kind)):
            chunks.append((kind, content))
        elif kind[0] & 32 and kind.isalpha() and kind != b"tRNS":
            damaged.append(kind.decode("ascii"))
        else:
            raise ValueError(f"checksum of chunk {kind!r} is wrong")
        position += 12 + size
    if chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise ValueError("no header chunk")
    if damaged:
        notes.append(f"damaged chunks {', '.join(dict.fromkeys(damaged))}: dropped")
    return chunks


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG file: length, kind, content, checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


# Pixels


def _samples(chunks: list[Chunk]) -> np.ndarray:
    needed = [chunk for chunk in chunks if chunk[0] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")]
    image = PngImagePlugin.PngImageFile(io.BytesIO(PNG_SIGNATURE + b"".join(png_chunk(*c) for c in needed)))
    image.load()
    return samples_of(image, "PNG")


def _deep_samples(chunks: list[Chunk], width: int, height: int, colour: int, interlaced: int) -> np.ndarray:
    import imagecodecs

    channels = {0: 1, 2: 3, 4: 2, 6: 4}.get(colour)
    if channels is None:
        raise Refusal(f"expected grey or RGB pixels in a 16-bit PNG, got colour type {colour}; save it again")
    image_data = b"".join(data for kind, data in chunks if kind == b"IDAT")
    filtered = _inflate(image_data, _png_data_size(width, height, 2 * channels, interlaced))
    clean = [chunks[0]]
    clean += [(k, data) for k, data in chunks if k == b"tRNS" and len(data) == 2 * channels and colour in (0, 2)][:1]
    stored = zlib.compress(filtered, 0)
    del filtered
    clean += [(b"IDAT", stored[i : i + 2**26]) for i in range(0, len(stored), 2**26)]
    del stored
    samples = imagecodecs.png_decode(PNG_SIGNATURE + b"".join(png_chunk(*c) for c in [*clean, (b"IEND", b"")]))
    return samples.reshape(height, width, -1)


def _png_data_size(width: int, height: int, pixel_size: int, interlaced: int) -> int:
    """Bytes of filtered rows; Adam7 stores seven smaller pictures."""
    if not interlaced:
        return height * (1 + width * pixel_size)
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    return sum(rows * (1 + columns * pixel_size) for columns, rows in sizes if columns > 0 and rows > 0)


def _inflate(data: bytes, size: int) -> bytes:
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(data, size)
    if len(content) < size:
        raise ValueError(f"{size} bytes of pixels expected, {len(content)} found")
    return content


def _widen(decoded: Decoded, chunks: list[Chunk]) -> None:
    """Values of the narrow range of video (16 to 235 of 255), which `cICP` may announce, over all of theirs."""
    content = _content(chunks, b"cICP")
    if content is None or len(content) != 4 or content[2] != 0 or content[3] != 0:
        return
    unit = (decoded.white + 1) / 256
    colours = 3 if decoded.samples.shape[2] > 2 else 1
    samples = (decoded.samples / np.float32(decoded.white)).astype(np.float32)
    above_black = samples[:, :, :colours] * np.float32(decoded.white) - np.float32(16 * unit)
    samples[:, :, :colours] = (above_black / np.float32(219 * unit)).clip(0, 1)
    decoded.samples, decoded.white = samples, 1.0
    decoded.notes.append("values of the narrow range of video widened")


# Beside the pixels


def _beside(chunks: list[Chunk]) -> Beside:
    beside = Beside(_claims(chunks), exif=_content(chunks, b"eXIf"))
    density = _content(chunks, b"pHYs")
    if density is not None and len(density) == 9:
        across, down, unit = struct.unpack(">IIB", density)
        if unit == 1:
            beside.resolution = across * METRE, down * METRE
    failed: list[str] = []
    for kind, content in chunks:
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, text = _text(kind, content)
            if text is None:
                failed.append(keyword)
            elif keyword == XMP_KEYWORD:
                beside.xmp = beside.xmp or text.encode("utf-8", "surrogateescape")
            elif keyword.startswith(_RAW_PROFILE) and (raw := metadata.raw_profile(text)) is not None:
                _take_raw_profile(beside, keyword.removeprefix(_RAW_PROFILE), raw)
            else:
                beside.text.append((keyword, text))
    if failed:
        names = ", ".join(dict.fromkeys(failed))[:80]
        beside.notes.append(f"text that is damaged or too long: dropped ({names})")
    return beside


def _content(chunks: list[Chunk], kind: bytes) -> bytes | None:
    return next((content for found, content in chunks if found == kind), None)


def _claims(chunks: list[Chunk]) -> Claims:
    claims = Claims(srgb=_content(chunks, b"sRGB") is not None)
    codes = _content(chunks, b"cICP")
    if codes is not None and len(codes) == 4 and codes[2] == 0:
        claims.codes = codes[0], codes[1]
    elif codes is not None:
        claims.notes.append("cICP is damaged or not of RGB: not followed")
    packed = _content(chunks, b"iCCP")
    if packed is not None:
        claims.profile = _unpacked(packed[packed.find(b"\0") + 2 :])
        if claims.profile is None:
            claims.notes.append("ICC profile is damaged: dropped")
    gamma = _content(chunks, b"gAMA")
    if gamma is not None:
        claims.exponent = 1e5 / max(int.from_bytes(gamma[:4], "big"), 1e-9)
    xy = _content(chunks, b"cHRM")
    if xy is not None:
        numbers = struct.unpack(">8I", xy) if len(xy) == 32 else (0,) * 8
        claims.chromaticities = tuple(number / 1e5 for number in numbers)  # type: ignore[assignment]
    return claims


def _take_raw_profile(beside: Beside, kind: str, raw: bytes) -> None:
    """EXIF, XMP or IPTC as hexadecimal text; the chunks of their own go before."""
    if kind in ("exif", "APP1") and raw.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
        beside.xmp = beside.xmp or raw[29:]
    elif kind in ("exif", "APP1"):
        beside.exif = beside.exif or raw
    elif kind == "xmp":
        beside.xmp = beside.xmp or raw
    elif kind in ("iptc", "8bim"):
        beside.iptc = beside.iptc or (metadata.iptc_of_resources(raw) if raw[:4] == b"8BIM" else raw)


def _text(kind: bytes, content: bytes) -> tuple[str, str | None]:
    """Keyword and text; no text where it is damaged or too long."""
    name, _, rest = content.partition(b"\0")
    keyword = name.decode("latin-1")
    shown = "".join(c for c in keyword if c.isprintable()) or "without a keyword"
    if not 1 <= len(keyword) <= 79 or not keyword.isprintable():
        return shown, None
    packed: bytes | None = rest
    if kind == b"zTXt":
        packed = _unpacked(rest[1:])
    elif kind == b"iTXt":
        parts = rest[2:].split(b"\0", 2)
        if len(parts) < 3:
            return shown, None
        packed = _unpacked(parts[2]) if rest[0] else parts[2]
    if packed is None or len(packed) > metadata.TEXT_LIMIT:
        return shown, None
    return keyword, packed.decode("utf-8", "surrogateescape") if kind == b"iTXt" else packed.decode("latin-1")


def _unpacked(data: bytes) -> bytes | None:
    """Inflated; None for damage and for what grows too large."""
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(data, metadata.TEXT_LIMIT + 1)
    except zlib.error:
        return None
    return content if unpacker.eof and len(content) <= metadata.TEXT_LIMIT else None
