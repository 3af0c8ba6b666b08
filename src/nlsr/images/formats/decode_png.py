"""16-bit PNG: libpng (imagecodecs) reads the pixels, Pillow, which would drop them to 8 bits, what stands beside them.

Source: the PNG specification, third edition.
"""

import io
import struct
import zlib
from typing import BinaryIO

from PIL import PngImagePlugin

from nlsr.images.formats.decoded import CheckSize, Decoded, Refusal, described, start_of

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")


def png_depth(file: BinaryIO) -> int:
    """Bits per sample; 0 if the file is too short to say."""
    head = start_of(file, 26)
    return head[24] if len(head) > 24 else 0


def decode_deep_png(file: BinaryIO, check_size: CheckSize) -> Decoded:
    """The first image of a 16-bit PNG. libpng prints about chunks it dislikes, so it gets only clean ones."""
    import imagecodecs

    chunks = _png_chunks(file.read())
    header = chunks[0][1]
    width, height, _, colour, compression, filtering, interlaced = struct.unpack(">IIBBBBB", header)
    check_size(width, height)
    if compression or filtering or interlaced > 1:
        raise ValueError("unknown method of compression, filtering or interlacing")
    channels = {0: 1, 2: 3, 4: 2, 6: 4}.get(colour)
    if channels is None:
        raise Refusal(f"expected grey or RGB pixels in a 16-bit PNG, got colour type {colour}; save it again")

    image_data = b"".join(data for kind, data in chunks if kind == b"IDAT")
    filtered = _inflate(image_data, _png_data_size(width, height, 2 * channels, interlaced))
    clean = [(b"IHDR", header)]
    clean += [(k, data) for k, data in chunks if k == b"tRNS" and len(data) == 2 * channels and colour in (0, 2)][:1]
    stored = zlib.compress(filtered, 0)
    del filtered
    clean += [(b"IDAT", stored[i : i + 2**26]) for i in range(0, len(stored), 2**26)]
    del stored
    samples = imagecodecs.png_decode(PNG_SIGNATURE + b"".join(png_chunk(*c) for c in [*clean, (b"IEND", b"")]))
    del clean

    others = [c for c in chunks[1:] if c[0] not in (b"IDAT", b"IEND", b"PLTE", *_ANIMATION)]
    ordered = [chunks[0], *others, (b"IDAT", b""), (b"IEND", b"")]  # what follows the pixels is read before them
    image = PngImagePlugin.PngImageFile(io.BytesIO(PNG_SIGNATURE + b"".join(png_chunk(*c) for c in ordered)))
    decoded = described(Decoded(samples.reshape(height, width, -1), 65535.0, 16), image)
    frames = next((struct.unpack_from(">I", data)[0] for kind, data in chunks if kind == b"acTL"), 1)
    if frames > 1:
        decoded.notes.append(f"animated file of {frames} frames: first frame taken")
    return decoded


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of each chunk; refuses damaged ones."""
    chunks: list[tuple[bytes, bytes]] = []
    position = len(PNG_SIGNATURE)
    while not chunks or chunks[-1][0] != b"IEND":
        size, kind = struct.unpack_from(">I4s", data, position)
        content = data[position + 8 : position + 8 + size]
        (checksum,) = struct.unpack_from(">I", data, position + 8 + size)
        if checksum != zlib.crc32(content, zlib.crc32(kind)):
            raise ValueError(f"checksum of chunk {kind!r} is wrong")
        chunks.append((kind, content))
        position += 12 + size
    if chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise ValueError("no header chunk")
    return chunks


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG file: length, kind, content, checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


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
