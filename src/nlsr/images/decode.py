"""From the bytes of an image file to its samples, by content and never by name. Knows nothing of tensors and paths.

Pillow reads what it reads exactly. It drops 16-bit colour to 8 bits, so libpng (imagecodecs) reads 16-bit PNG and
tifffile reads TIFF, also because libtiff inside Pillow prints to standard error and goes on with damaged data.
"""

import io
import os
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from nlsr.images import metadata

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# The classes themselves rather than `Image.open`, whose limit of pixels is a global that other libraries change.
_PLUGINS: dict[str, Callable[[BinaryIO], ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 1, 2, 3, 5, 6
_JPEG = 7
_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2
_UNSIGNED, _FLOAT = 1, 3

Size = tuple[int, int]


class Refusal(Exception):
    """What was expected, what came and what to do, without the path; becomes an ImageError."""


@dataclass
class Decoded:
    """Samples (height, width, channels) as stored, 1 to 4 channels: grey or RGB, alpha last; `white` is their one."""

    samples: np.ndarray
    white: float
    depth: int
    orientation: int = 1
    profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    notes: list[str] = field(default_factory=list)


def sniff(head: bytes) -> str | None:
    """The format whose signature the first 64 bytes carry; None if it is none of those that are read."""
    if head.startswith(PNG_SIGNATURE):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    if head.startswith(_TIFF_STARTS):
        return "TIFF"
    if head.startswith(b"BM"):
        return "BMP"
    if head[4:8] == b"ftyp" and (b"avif" in head or b"avis" in head):
        return "AVIF"
    return None


def decode(file: BinaryIO, format: str, check_size: Callable[[int, int], None]) -> Decoded:
    """Read the first image of a file; `check_size(width, height)` is called before its pixels are decoded.

    Raises: Refusal for what is understood and refused, and whatever a decoder raises for damaged data.
    """
    if format == "TIFF":
        return _decode_tiff(file, check_size)
    if format == "PNG" and _png_depth(file) == 16:
        return _decode_png16(file, check_size)
    if format == "JPEG":
        _check_jpeg_end(file)
    decoded = _decode_with_pillow(file, format, check_size)
    if format == "AVIF" and _avif_is_deep(file):
        decoded.notes.append("more than 8 bits reduced to 8")
    return decoded


def _png_depth(file: BinaryIO) -> int:
    head = _start(file, 26)
    return head[24] if len(head) > 24 else 0


def _start(file: BinaryIO, size: int) -> bytes:
    file.seek(0)
    head = file.read(size)
    file.seek(0)
    return head


def _decode_png16(file: BinaryIO, check_size: Callable[[int, int], None]) -> Decoded:
    """A 16-bit PNG: Pillow reads the metadata, libpng the pixels.

    libpng prints to standard error about chunks it dislikes, so it gets only clean ones.
    """
    import imagecodecs

    chunks = _png_chunks(file.read())
    header = chunks[0][1]
    width, height, _, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    check_size(width, height)
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

    others = [c for c in chunks[1:] if c[0] not in (b"IDAT", b"IEND", b"PLTE")]
    ordered = [chunks[0], *others, (b"IDAT", b""), (b"IEND", b"")]  # what follows the pixels is read before them
    image = _PLUGINS["PNG"](io.BytesIO(PNG_SIGNATURE + b"".join(png_chunk(*c) for c in ordered)))
    return _described(image, Decoded(samples.reshape(height, width, -1), 65535.0, 16))


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


def _check_jpeg_end(file: BinaryIO) -> None:
    """Refuse a JPEG whose scans do not run to an end marker: decoders fill what is missing with grey."""
    data = file.read()
    file.seek(0)
    position = 2
    for _ in range(len(data)):
        marker = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])").search(data, position)
        if marker is None or marker[1] == b"\xd9":
            break
        position = marker.end()
        if marker[1] not in (b"\x01", b"\xd8"):
            position += int.from_bytes(data[position : position + 2], "big")
    if marker is None:
        raise ValueError("no end marker")


def _decode_with_pillow(file: BinaryIO, format: str, check_size: Callable[[int, int], None]) -> Decoded:
    image = _PLUGINS[format](file)
    check_size(*image.size)
    frames = int(getattr(image, "n_frames", 1))
    notes = [f"animated file of {frames} frames: first frame taken"] if frames > 1 else []
    image.load()  # also reads what follows the pixels
    decoded = _described(image, Decoded(np.empty(0), 255.0, 8, notes=notes))
    return _with_samples(decoded, image, format)


def _described(image: ImageFile.ImageFile, decoded: Decoded) -> Decoded:
    """`decoded` with the metadata that Pillow found."""
    xmp = image.info.get("xmp")
    try:
        exif = image.getexif()
    except Exception:  # Pillow has no error of its own for damaged EXIF; the picture is worth more than its EXIF
        decoded.notes.append("EXIF cannot be read: dropped")
        exif = Image.Exif()
    return _carrying(decoded, exif, profile=image.info.get("icc_profile"), xmp=xmp)


def _carrying(decoded: Decoded, exif: Image.Exif, *, profile: object, xmp: object) -> Decoded:
    decoded.orientation = metadata.valid_orientation(exif.get(metadata.ORIENTATION))
    try:
        decoded.exif = metadata.upright_exif(exif)
    except Exception:  # as above
        decoded.notes.append("EXIF cannot be read: dropped")
    decoded.profile = profile if isinstance(profile, bytes) and len(profile) >= 128 else None
    decoded.xmp = metadata.upright_xmp(xmp) if isinstance(xmp, bytes) and xmp else None
    return decoded


def _with_samples(decoded: Decoded, image: Image.Image, format: str) -> Decoded:
    """`decoded` with the 8-bit samples of a Pillow image, in one of the modes L, LA, RGB and RGBA."""
    if image.mode == "CMYK":
        image = _from_cmyk(image, decoded)
    target = _mode(image)
    if target is None:
        raise Refusal(f"expected grey, RGB, CMYK or palette pixels, got {image.mode} in {format}; convert it to RGB")
    if image.mode != target:
        image = image.convert(target)
    width, height = image.size
    decoded.samples = np.asarray(image).reshape(height, width, -1)
    return decoded


def _from_cmyk(image: Image.Image, decoded: Decoded) -> Image.Image:
    """sRGB from CMYK; the profile, which described the inks, is gone afterwards."""
    profile, decoded.profile = decoded.profile, None
    if profile is not None:
        try:
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        except (ImageCms.PyCMSError, OSError, ValueError):
            decoded.notes.append("CMYK converted to sRGB without its profile, which cannot be used")
            return image.convert("RGB")
        assert converted is not None
        decoded.notes.append("CMYK converted to sRGB through its profile")
        return converted
    decoded.notes.append("CMYK without a profile converted to sRGB by plain arithmetic")
    return image.convert("RGB")


def _mode(image: Image.Image) -> str | None:
    transparent = image.has_transparency_data
    if image.mode in ("1", "L", "LA", "La"):
        return "LA" if transparent else "L"
    if image.mode in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
        return "RGBA" if transparent else "RGB"
    return None


def _avif_is_deep(file: BinaryIO) -> bool:
    """Whether the AV1 configuration box says 10 or 12 bits."""
    head = _start(file, 2**16)
    box = head.find(b"av1C")
    return 0 <= box < len(head) - 7 and bool(head[box + 6] & 0x40)


def _decode_tiff(file: BinaryIO, check_size: Callable[[int, int], None]) -> Decoded:
    import tifffile

    with tifffile.TiffFile(file, _multifile=False) as tiff:
        page = tiff.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        check_size(page.imagewidth, page.imagelength)
        _check_tiff_page(page, os.fstat(file.fileno()).st_size)
        notes = ["file of several pages: first page taken"] if _has_second_page(tiff) else []
        decoded = Decoded(page.asarray(), 1.0, 16 if page.bitspersample > 8 else 8, notes=notes)
        exif = Image.Exif()
        exif.endian, exif.bigtiff = tiff.byteorder, tiff.is_bigtiff
        try:
            exif.load_from_fp(file, page.offset)
        except Exception:  # also Pillow's failure with every big-endian BigTIFF
            decoded.notes.append("EXIF cannot be read: dropped")
            exif = Image.Exif()
        profile, xmp = page.tags.valueof(metadata.PROFILE_TAG), page.tags.valueof(metadata.XMP_TAG)
        _carrying(decoded, exif, profile=profile, xmp=xmp.encode() if isinstance(xmp, str) else xmp)
        decoded.orientation = metadata.valid_orientation(page.tags.valueof(metadata.ORIENTATION))
        return _with_tiff_samples(decoded, page)


def _has_second_page(tiff: Any) -> bool:
    try:
        tiff.pages[1]
    except IndexError:
        return False
    return True


def _check_tiff_page(page: Any, file_size: int) -> None:
    """Refuse what would decode to something else than a picture, or to one with holes."""
    known = page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _SEPARATED)
    if not known and not (page.photometric == _YCBCR and page.compression == _JPEG):  # JPEG decoders return RGB
        name = getattr(page.photometric, "name", page.photometric)
        raise Refusal(f"expected grey, RGB, CMYK or palette pixels, got {name}; convert it to RGB")
    if page.dtype is None or not (
        (page.sampleformat == _UNSIGNED and 1 <= page.bitspersample <= (8 if page.photometric == _PALETTE else 16))
        or (page.sampleformat == _FLOAT and page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB))
    ):
        raise Refusal(
            f"expected unsigned samples of at most 16 bits or floating point, got {page.bitspersample}-bit samples"
            f" of TIFF sample format {int(page.sampleformat)}; convert it to 16 bits"
        )
    if page.imagedepth != 1 or not 1 <= page.samplesperpixel <= 8:
        raise Refusal(f"expected a flat picture of 1 to 8 channels, got axes {page.axes} of {page.shape}; split it")
    if page.is_tiled and page.tilewidth * page.tilelength > 4 * (page.imagewidth + 4096) * (page.imagelength + 4096):
        raise ValueError("tiles are larger than the picture")
    if len(page.dataoffsets) != np.prod(page.chunked):
        raise ValueError(f"{np.prod(page.chunked)} pieces of pixels expected, {len(page.dataoffsets)} found")
    row_bytes = -(-page.imagewidth * page.samplesperpixel * page.bitspersample // 8)
    if page.compression == 1 and sum(page.databytecounts) < row_bytes * page.imagelength:
        raise ValueError("fewer pixels are stored than announced")  # tifffile would make the rest black
    for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        if offset < 8 or size < 1 or offset + size > file_size:
            raise ValueError("pixels lie beyond the end of the file")


def _with_tiff_samples(decoded: Decoded, page: Any) -> Decoded:
    samples = decoded.samples
    if samples.ndim == 2:
        samples = samples[:, :, None]
    elif page.planarconfig == 2:
        samples = np.moveaxis(samples, 0, -1)
    if page.sampleformat == _FLOAT:
        samples, decoded.depth = _checked_floats(samples, decoded.notes), 32
    else:
        decoded.white = 2.0**page.bitspersample - 1
    if page.photometric == _PALETTE:
        decoded.samples, decoded.white = _from_palette(samples, page.colormap), 255.0
        return decoded
    if page.photometric == _SEPARATED:
        return _from_separated(decoded, samples)
    if page.photometric == _WHITE_IS_ZERO:
        samples = np.asarray(decoded.white, samples.dtype) - samples

    colours = 3 if page.photometric in (_RGB, _YCBCR) else 1
    extras = [int(extra) for extra in page.extrasamples]
    kept = list(range(colours))
    alphas = [i for i, extra in enumerate(extras) if extra in (_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA)]
    kept += [colours + alphas[0]] if alphas else []
    if samples.shape[2] < len(kept):
        raise ValueError(f"{len(kept)} channels announced, {samples.shape[2]} found")
    if samples.shape[2] > len(kept):
        decoded.notes.append(f"extra channels dropped: {samples.shape[2] - len(kept)}")
        samples = samples[:, :, kept]
    if alphas and extras[alphas[0]] == _ASSOCIATED_ALPHA:
        samples = _unpremultiplied(samples, decoded.white)
    decoded.samples = samples
    return decoded


def _checked_floats(samples: np.ndarray, notes: list[str]) -> np.ndarray:
    samples = samples.astype(np.float32, copy=False)
    if not np.isfinite(samples).all():
        count = samples.size - int(np.isfinite(samples).sum())
        raise Refusal(f"expected finite values, got {count} NaN or infinite ones; replace them")
    if samples.size and (samples.min() < 0 or samples.max() > 1):
        notes.append(f"values {samples.min():.4g} to {samples.max():.4g} clipped to 0..1")
        samples = samples.clip(0, 1)
    return samples


def _from_palette(indices: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """8-bit RGB from indices and a 16-bit palette (3, colours); some writers leave 8-bit values in it."""
    colours = palette >> 8 if palette.max() > 255 else palette
    return colours.T.astype(np.uint8)[indices[:, :, 0]]


def _from_separated(decoded: Decoded, samples: np.ndarray) -> Decoded:
    if samples.shape[2] < 4:
        raise ValueError(f"4 inks expected, {samples.shape[2]} found")
    reduced = np.rint(samples[:, :, :4] * (255 / decoded.white)).astype(np.uint8)
    if decoded.depth > 8:
        decoded.notes.append("more than 8 bits reduced to 8")
    decoded.white, decoded.depth = 255.0, 8
    return _with_samples(decoded, Image.frombytes("CMYK", reduced.shape[1::-1], reduced.tobytes()), "TIFF")


def _unpremultiplied(samples: np.ndarray, white: float) -> np.ndarray:
    """Colour and alpha of samples whose colour was multiplied by alpha; colour under zero alpha stays zero."""
    alpha = samples[:, :, -1:].astype(np.float64)
    colour = samples[:, :, :-1] * np.divide(white, alpha, out=np.zeros_like(alpha), where=alpha > 0)
    colour = np.minimum(colour, white)
    if np.issubdtype(samples.dtype, np.integer):
        colour = np.rint(colour)
    return np.concatenate([colour.astype(samples.dtype), samples[:, :, -1:]], axis=2)
