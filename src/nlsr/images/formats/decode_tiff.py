"""TIFF, by tifffile: every depth, layout and compression of a picture as far as it can be shown on a screen.

Source: TIFF revision 6.0 and its supplements; Adobe's DNG specification for how to tell raw data.
"""

import os
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image

from nlsr.images.alpha import bleed
from nlsr.images.formats import metadata
from nlsr.images.formats.decoded import RAW_DATA, READING, Beside, CheckSize, Decoded, Refusal, described, without_inks
from nlsr.images.formats.meaning import Claims

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 1, 2, 3, 5, 6
_JPEG = 7
_DNG_VERSION = 50706
_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3


def decode_tiff(file: BinaryIO, check_size: CheckSize) -> Decoded:
    """The first page of a file. Raises: Refusal for what is no picture."""
    import tifffile

    with tifffile.TiffFile(file, _multifile=False) as tiff:
        page = tiff.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        if _DNG_VERSION in page.tags:
            raise Refusal(f"expected a picture, got {RAW_DATA} (DNG); develop it in a program for that first")
        check_size(
            page.imagewidth,
            page.imagelength,
            alpha=any(int(extra) in (_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA) for extra in page.extrasamples),
            depth=32 if page.sampleformat == _FLOAT else 16 if page.bitspersample > 8 else 8,
            turned=metadata.valid_orientation(page.tags.valueof(metadata.ORIENTATION)) >= 5,
            reading=_reading(page),
        )
        _check_tiff_page(page, os.fstat(file.fileno()).st_size)
        notes = ["file of several pages: first page taken"] if _has_second_page(tiff) else []
        decoded = Decoded(page.asarray(), 1.0, 16 if page.bitspersample > 8 else 8, notes=notes)
        beside = _beside(file, tiff, page)
        orientation = metadata.valid_orientation(page.tags.valueof(metadata.ORIENTATION))
        _with_tiff_samples(decoded, page, beside)
        decoded.orientation, beside.upright = orientation, True  # Pillow cannot read the tag of every BigTIFF
        return described(decoded, beside, "TIFF")


def _reading(page: Any) -> int:
    """Bytes per pixel that are taken until the picture is read; measured."""
    if page.photometric == _SEPARATED:
        return 50
    if any(int(extra) == _ASSOCIATED_ALPHA for extra in page.extrasamples):
        return 80  # colours are divided by alpha
    return max(READING, int(page.samplesperpixel) * (4 + -(-int(page.bitspersample) // 8)))


def _beside(file: BinaryIO, tiff: Any, page: Any) -> Beside:
    profile, xmp = page.tags.valueof(metadata.PROFILE_TAG), page.tags.valueof(metadata.XMP_TAG)
    beside = Beside(Claims(profile if isinstance(profile, bytes) else None))
    beside.xmp = xmp.encode() if isinstance(xmp, str) else xmp
    exif = Image.Exif()
    exif.endian, exif.bigtiff = tiff.byteorder, tiff.is_bigtiff
    try:
        exif.load_from_fp(file, page.offset)
        beside.exif = exif
    except Exception:  # also Pillow's failure with every big-endian BigTIFF
        beside.notes.append("EXIF cannot be read: dropped")
    tags = (metadata.X_RESOLUTION, metadata.Y_RESOLUTION, metadata.RESOLUTION_UNIT)
    beside.resolution = metadata.resolution_of_tags({tag: page.tags.valueof(tag) for tag in tags if tag in page.tags})
    resources = _raw_tag(file, page, metadata.PHOTOSHOP_TAG)
    beside.iptc = _raw_tag(file, page, metadata.IPTC_TAG) or (metadata.iptc_of_resources(resources or b""))
    return beside


def _raw_tag(file: BinaryIO, page: Any, code: int) -> bytes | None:
    """The bytes of a tag, whatever type its writer thought of; Photoshop calls those of IPTC long numbers."""
    tag = page.tags.get(code)
    if tag is None:
        return None
    file.seek(tag.valueoffset)
    return file.read(tag.valuebytecount)


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
    plain = page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
    deepest = 8 if page.photometric == _PALETTE else 32 if plain else 16
    if page.dtype is None or not (
        (page.sampleformat == _UNSIGNED and 1 <= page.bitspersample <= deepest)
        or (page.sampleformat == _SIGNED and page.bitspersample in (8, 16, 32) and plain)
        or (page.sampleformat == _FLOAT and plain)
    ):
        raise Refusal(
            f"expected integers of at most 32 bits or floating point, got {page.bitspersample}-bit samples"
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


def _with_tiff_samples(decoded: Decoded, page: Any, beside: Beside) -> None:
    samples = decoded.samples
    if samples.ndim == 2:
        samples = samples[:, :, None]
    elif page.planarconfig == 2:
        samples = np.moveaxis(samples, 0, -1)
    if page.sampleformat == _FLOAT:
        samples, decoded.depth = _checked_floats(samples, decoded.notes), 32
    else:
        samples, decoded.white = _unsigned(samples, page, decoded.notes), 2.0**page.bitspersample - 1
    if page.photometric == _PALETTE:
        _note_dropped(decoded, samples.shape[2] - 1)
        decoded.samples, decoded.white = _from_palette(samples, page.colormap), 255.0
        return
    if page.photometric == _SEPARATED:
        if samples.shape[2] < 4:
            raise ValueError(f"4 inks expected, {samples.shape[2]} found")
        _note_dropped(decoded, samples.shape[2] - 4)
        decoded.samples = samples
        profile, beside.claims.profile = beside.claims.profile, None
        without_inks(decoded, profile)
        return
    if page.photometric == _WHITE_IS_ZERO:
        samples = ~samples if samples.dtype == bool else np.asarray(decoded.white, samples.dtype) - samples

    colours = 3 if page.photometric in (_RGB, _YCBCR) else 1
    extras = [int(extra) for extra in page.extrasamples]
    kept = list(range(colours))
    alphas = [i for i, extra in enumerate(extras) if extra in (_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA)]
    kept += [colours + alphas[0]] if alphas else []
    if samples.shape[2] < len(kept):
        raise ValueError(f"{len(kept)} channels announced, {samples.shape[2]} found")
    if samples.shape[2] > len(kept):
        _note_dropped(decoded, samples.shape[2] - len(kept))
        samples = samples[:, :, kept]
    if alphas and extras[alphas[0]] == _ASSOCIATED_ALPHA:
        samples = _unpremultiplied(samples, decoded.white)
    decoded.samples = samples


def _unsigned(samples: np.ndarray, page: Any, notes: list[str]) -> np.ndarray:
    """Integers counted from the least one of their type."""
    if page.sampleformat != _SIGNED:
        return samples
    notes.append(f"signed {page.bitspersample}-bit values: their whole range taken, the least one as black")
    return (samples.astype(np.int64) + 2 ** (page.bitspersample - 1)).astype(f"u{samples.dtype.itemsize}")


def _note_dropped(decoded: Decoded, count: int) -> None:
    if count:
        decoded.notes.append(f"extra channels dropped: {count}")


def _checked_floats(samples: np.ndarray, notes: list[str]) -> np.ndarray:
    samples = samples.astype(np.float32, copy=False)
    unknown = np.isnan(samples)
    count = int(unknown.sum())
    if count == samples.size:
        raise Refusal("expected numbers, got NaN in every place; get the file again")
    least, most = np.nanmin(samples), np.nanmax(samples)
    if least < 0 or most > 1:
        notes.append(f"values {least:.4g} to {most:.4g} clipped to 0..1")
        samples = samples.clip(0, 1)
    if count:
        samples = _filled(samples, unknown)
        notes.append(f"values that are no number (NaN): {count}, filled from their neighbours")
    return samples


def _filled(samples: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Each channel with its unknown values as their neighbours are; 0 where all are unknown."""
    channels = torch.from_numpy(np.where(unknown, np.float32(0), samples)).permute(2, 0, 1)
    known = torch.from_numpy(~unknown).permute(2, 0, 1).float()
    return bleed(channels[:, None], known[:, None])[:, 0].permute(1, 2, 0).numpy()


def _from_palette(indices: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """8-bit RGB, or grey, from indices and a 16-bit palette (3, colours); some writers leave 8-bit values in it."""
    colours = palette >> 8 if palette.max() > 255 else palette
    if (colours == colours[0]).all():
        colours = colours[:1]
    return colours.T.astype(np.uint8)[indices[:, :, 0]]


def _unpremultiplied(samples: np.ndarray, white: float) -> np.ndarray:
    """Colour and alpha of samples whose colour was multiplied by alpha; colour under zero alpha stays zero."""
    alpha = samples[:, :, -1:].astype(np.float64)
    colour = samples[:, :, :-1] * np.divide(white, alpha, out=np.zeros_like(alpha), where=alpha > 0)
    colour = np.minimum(colour, white)
    if np.issubdtype(samples.dtype, np.integer):
        colour = np.rint(colour)
    return np.concatenate([colour.astype(samples.dtype), samples[:, :, -1:]], axis=2)
