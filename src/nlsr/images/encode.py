"""From a picture to the bytes of an image file. Knows nothing of paths.

PNG and TIFF are written here, in bands of rows that are filtered and compressed on all cores, so that a result of
hundreds of megapixels is never copied; the other formats are Pillow's. Equal pictures give equal bytes.
"""

import io
import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nlsr.images import metadata
from nlsr.images.decode import PNG_SIGNATURE, Refusal, png_chunk
from nlsr.images.picture import Picture

_BAND_BYTES = 2**20
_TIFF_LIMIT = 4 * 10**9  # more bytes need 64-bit offsets
_GREY_WEIGHTS = np.array([0.299, 0.587, 0.114])  # BT.601, full range; float64, so that equal channels stay exact
_BYTE, _SHORT, _LONG, _UNDEFINED, _LONG8 = 1, 3, 4, 7, 16

_Packed = TypeVar("_Packed", bytes, tuple[bytes, bytes])

DEFAULT_QUALITY = {"JPEG": 95, "WebP": 95, "AVIF": 90}


def encode(file: BinaryIO, format: str, picture: Picture, quality: int | None) -> None:
    """Write a picture to an open file. Raises: Refusal for values and metadata that the format cannot hold."""
    samples = _Samples(picture, _sample_type(format, picture))
    if format == "PNG":
        _write_png(file, samples)
    elif format == "TIFF":
        _write_tiff(file, samples)
    else:
        _write_with_pillow(file, format, samples, quality or DEFAULT_QUALITY.get(format, 0))


def _sample_type(format: str, picture: Picture) -> np.dtype:
    """The samples that hold the picture: those of its integer tensor, else of its depth, within the format's."""
    depth = {torch.uint8: 8, torch.uint16: 16}.get(picture.pixels.dtype, picture.depth)
    depth = min(depth, {"PNG": 16, "TIFF": 32}.get(format, 8))
    return np.dtype({8: np.uint8, 16: np.uint16, 32: np.float32}[depth])


@dataclass(frozen=True)
class _Samples:
    """The samples of a picture as a file stores them, (rows, width, channels), made when they are asked for."""

    picture: Picture
    dtype: np.dtype

    @property
    def height(self) -> int:
        return self.picture.pixels.shape[2]

    @property
    def width(self) -> int:
        return self.picture.pixels.shape[3]

    @property
    def channels(self) -> int:
        return (1 if self.picture.grey else 3) + (self.picture.alpha is not None)

    @property
    def row_bytes(self) -> int:
        return self.width * self.channels * self.dtype.itemsize

    @property
    def profile(self) -> bytes | None:
        """The colour profile, unless it is one for another number of channels."""
        profile = self.picture.profile
        return profile if profile and profile[16:20] == (b"GRAY" if self.picture.grey else b"RGB ") else None

    def tops(self) -> range:
        """The first row of each band of about a megabyte."""
        return range(0, self.height, max(1, _BAND_BYTES // self.row_bytes))

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Rows top to bottom, without a copy where the tensor already is of this type and channel-last."""
        rows = self._converted(self.picture.pixels[0, :, top:bottom])
        if self.picture.grey:
            rows = (rows @ _GREY_WEIGHTS)[:, :, None]
            rows = (np.rint(rows) if np.issubdtype(self.dtype, np.integer) else rows).astype(self.dtype)
        if self.picture.alpha is not None:
            rows = np.concatenate([rows, self._converted(self.picture.alpha[0, :, top:bottom])], axis=2)
        return rows

    def _converted(self, part: Tensor) -> np.ndarray:
        part = part.detach().cpu().permute(1, 2, 0)
        if part.is_floating_point():
            values = part.float().numpy()
            if not np.isfinite(values).all():
                raise Refusal("expected finite values, got NaN or infinity; compute again with --precision fp32")
            values = values.clip(0, 1)
            if self.dtype == np.float32:
                return values
            # In place: `clip` made a copy.
            return np.rint(np.multiply(values, np.iinfo(self.dtype).max, out=values), out=values).astype(self.dtype)
        stored = part.numpy()
        if stored.dtype == self.dtype:
            return np.asarray(stored)
        white = int(np.iinfo(stored.dtype).max)
        if self.dtype == np.float32:
            return (stored / np.float32(white)).astype(np.float32)
        new_white = int(np.iinfo(self.dtype).max)
        return ((stored.astype(np.uint32) * new_white + white // 2) // white).astype(self.dtype)


def _write_png(file: BinaryIO, samples: _Samples) -> None:
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[samples.channels]
    bits = 8 * samples.dtype.itemsize
    header = struct.pack(">IIBBBBB", samples.width, samples.height, bits, colour, 0, 0, 0)
    file.write(PNG_SIGNATURE + png_chunk(b"IHDR", header))
    if samples.profile:
        file.write(png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(samples.profile)))
    if samples.picture.exif:
        file.write(png_chunk(b"eXIf", samples.picture.exif))
    if samples.picture.xmp:
        file.write(png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + samples.picture.xmp))

    def packed_band(top: int) -> tuple[bytes, bytes]:
        filtered = _png_filtered(samples, top, min(top + samples.tops().step, samples.height))
        last = top + samples.tops().step >= samples.height
        packer = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_RLE)
        return filtered, packer.compress(filtered) + packer.flush(zlib.Z_FINISH if last else zlib.Z_FULL_FLUSH)

    # One zlib stream made of independently packed bands, each in a chunk of its own.
    checksum = 1
    beginning = b"\x78\x01"
    for filtered, packed in _in_parallel(packed_band, samples.tops()):
        checksum = zlib.adler32(filtered, checksum)
        file.write(png_chunk(b"IDAT", beginning + packed))
        beginning = b""
    file.write(png_chunk(b"IDAT", struct.pack(">I", checksum)) + png_chunk(b"IEND", b""))


def _png_filtered(samples: _Samples, top: int, bottom: int) -> bytes:
    """Rows as differences to the mean of the left and the upper byte (PNG filter 3), each after its filter's number.

    Smaller than the other simple filters on photographs, and free of branches.
    """
    big_endian = samples.dtype.newbyteorder(">")
    rows = samples.rows(max(top - 1, 0), bottom).astype(big_endian, copy=False)
    rows = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    upper = rows[:-1] if top else np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    rows = rows[1:] if top else rows
    pixel_size = samples.channels * samples.dtype.itemsize
    filtered = np.empty((len(rows), 1 + samples.row_bytes), np.uint8)
    filtered[:, 0] = 3
    filtered[:, 1 : 1 + pixel_size] = rows[:, :pixel_size] - (upper[:, :pixel_size] >> 1)
    left, upper = rows[:, :-pixel_size], upper[:, pixel_size:]
    mean = (left & upper) + ((left ^ upper) >> 1)  # without the carry that left + upper would need
    np.subtract(rows[:, pixel_size:], mean, out=filtered[:, 1 + pixel_size :])
    return filtered.tobytes()


def _in_parallel(pack: Callable[[int], _Packed], tops: range) -> Iterator[_Packed]:
    """Results of `pack` in order; a few bands ahead and no more, so that memory stays small on a slow disk."""
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[_Packed]] = deque()
        for top in tops:
            ahead.append(pool.submit(pack, top))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _write_tiff(file: BinaryIO, samples: _Samples) -> None:
    """Little-endian, deflated strips; the directory stands at the end, so that strips are written as they come."""
    big = samples.row_bytes * samples.height > _TIFF_LIMIT
    number, size = ("<Q", 8) if big else ("<I", 4)
    file.write(b"II+\0\x08\0\0\0" + bytes(8) if big else b"II*\0" + bytes(4))

    def packed_strip(top: int) -> bytes:
        rows = samples.rows(top, min(top + samples.tops().step, samples.height))
        packer = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
        return packer.compress(_tiff_filtered(rows)) + packer.flush()

    offsets, counts = [], []
    for strip in _in_parallel(packed_strip, samples.tops()):
        offsets.append(file.tell())
        counts.append(len(strip))
        file.write(strip + b"\0" * (len(strip) % 2))

    exif: dict[int, bytes] = {}
    if samples.picture.exif:
        block, exif = metadata.tiff_entries(samples.picture.exif, file.tell(), big=big)
        file.write(block + b"\0" * (len(block) % 2))

    def entry(tag: int, kind: int, values: bytes, count: int) -> bytes:
        start = struct.pack("<HH", tag, kind) + struct.pack(number, count)
        if len(values) <= size:
            return start + values.ljust(size, b"\0")
        start += struct.pack(number, file.tell())
        file.write(values + b"\0" * (len(values) % 2))
        return start

    entries = exif | {tag: entry(tag, *content) for tag, content in _tiff_tags(samples, offsets, counts, big).items()}
    position = file.tell()
    file.write(struct.pack("<Q" if big else "<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)))
    file.write(bytes(size))
    file.seek(8 if big else 4)
    file.write(struct.pack(number, position))


def _tiff_filtered(rows: np.ndarray) -> bytes:
    """Integers as differences to their left neighbours (TIFF predictor 2), little-endian; floats as they are."""
    if np.issubdtype(rows.dtype, np.integer):
        rows = np.concatenate([rows[:, :1], rows[:, 1:] - rows[:, :-1]], axis=1)
    return rows.astype(rows.dtype.newbyteorder("<"), copy=False).tobytes()


def _tiff_tags(
    samples: _Samples, offsets: list[int], counts: list[int], big: bool
) -> dict[int, tuple[int, bytes, int]]:
    """Type, packed values and number of values of each tag that describes the pixels."""
    integer = np.issubdtype(samples.dtype, np.integer)

    def packed(kind: int, *values: int) -> tuple[int, bytes, int]:
        letter = {_SHORT: "H", _LONG: "I", _LONG8: "Q"}[kind]
        return kind, struct.pack(f"<{len(values)}{letter}", *values), len(values)

    tags = {
        256: packed(_LONG, samples.width),
        257: packed(_LONG, samples.height),
        258: packed(_SHORT, *[8 * samples.dtype.itemsize] * samples.channels),
        259: packed(_SHORT, 8),  # deflate
        262: packed(_SHORT, 1 if samples.picture.grey else 2),
        273: packed(_LONG8 if big else _LONG, *offsets),
        277: packed(_SHORT, samples.channels),
        278: packed(_LONG, samples.tops().step),
        279: packed(_LONG8 if big else _LONG, *counts),
        284: packed(_SHORT, 1),
        317: packed(_SHORT, 2 if integer else 1),
        339: packed(_SHORT, *[1 if integer else 3] * samples.channels),
    }
    if samples.picture.alpha is not None:
        tags[338] = packed(_SHORT, 2)  # alpha that the colours were not multiplied by
    if samples.profile:
        tags[metadata.PROFILE_TAG] = _UNDEFINED, samples.profile, len(samples.profile)
    if samples.picture.xmp:
        tags[metadata.XMP_TAG] = _BYTE, samples.picture.xmp, len(samples.picture.xmp)
    return tags


def _write_with_pillow(file: BinaryIO, format: str, samples: _Samples, quality: int) -> None:
    whole = samples.rows(0, samples.height)
    image = Image.fromarray(np.ascontiguousarray(whole[:, :, 0] if samples.channels == 1 else whole))
    del whole
    options: dict[str, object] = {"format": format.upper()}
    if format != "BMP":
        options |= {"quality": quality, "icc_profile": samples.profile or b""}
        if samples.picture.exif:
            options["exif"] = b"Exif\0\0" + samples.picture.exif
        if samples.picture.xmp:
            options["xmp"] = samples.picture.xmp
    if format == "JPEG":
        options["subsampling"] = "4:4:4" if quality >= 90 else "4:2:0"
        for name, limit in (("exif", 65533), ("xmp", 65504)):
            size = len(options.get(name, b""))  # type: ignore[arg-type]
            if size > limit:
                raise Refusal(f"JPEG holds at most {limit} bytes of {name.upper()}, got {size}; write PNG, or strip it")
    if format == "WebP":
        options |= {"lossless": quality == 100, "exact": True, "method": 4}
    if format == "AVIF":
        options["subsampling"] = "4:4:4" if quality >= 90 else "4:2:0"
    buffer = io.BytesIO()  # Pillow reports a full disk as an encoder's failure; Python says what it is
    image.save(buffer, **options)  # type: ignore[arg-type]
    file.write(buffer.getbuffer())
