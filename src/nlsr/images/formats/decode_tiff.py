"""TIFF, by tifffile: every depth, layout and compression of a picture as far as it can be shown on a screen.

Source: TIFF revision 6.0 and its supplements.
"""

import os
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from nlsr.images.formats import metadata
from nlsr.images.formats.decoded import CheckSize, Decoded, Refusal, with_metadata, without_inks

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 1, 2, 3, 5, 6
_JPEG = 7
_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2
_UNSIGNED, _FLOAT = 1, 3


def decode_tiff(file: BinaryIO, check_size: CheckSize) -> Decoded:
    """The first page of a file. Raises: Refusal for what is no picture."""
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
        with_metadata(decoded, exif, profile=profile, xmp=xmp.encode() if isinstance(xmp, str) else xmp)
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
        _note_dropped(decoded, samples.shape[2] - 1)
        decoded.samples, decoded.white = _from_palette(samples, page.colormap), 255.0
        return decoded
    if page.photometric == _SEPARATED:
        if samples.shape[2] < 4:
            raise ValueError(f"4 inks expected, {samples.shape[2]} found")
        _note_dropped(decoded, samples.shape[2] - 4)
        decoded.samples = samples
        return without_inks(decoded)
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
    return decoded


def _note_dropped(decoded: Decoded, count: int) -> None:
    if count:
        decoded.notes.append(f"extra channels dropped: {count}")


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
