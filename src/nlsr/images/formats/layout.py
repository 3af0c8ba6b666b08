"""How a file stores a picture: the kind of its samples, and rows of tensors as such samples. Knows no format."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from torch import Tensor

from nlsr.errors import ShapeError
from nlsr.images.colour_space import ColourSpace
from nlsr.images.formats.decoded import Refusal
from nlsr.images.formats.metadata import Resolution, Text

Band = tuple[Tensor, Tensor | None]
"""Some full rows of a picture: colours (3, rows, width) and alpha (1, rows, width), or None without; floating point
in [0, 1], uint8 or uint16."""

Rows = tuple[np.ndarray, np.ndarray | None]
"""The same as arrays: float32, uint8 or uint16."""

# Small, as several strips with their float copies stand in memory at a time; large enough to compress well.
_STRIP_BYTES = 2**18
_GREY_WEIGHTS = np.array([0.299, 0.587, 0.114])  # BT.601, full range; float64, so that equal channels stay exact
_TYPES = {8: np.uint8, 16: np.uint16, 32: np.float32}


@dataclass(frozen=True)
class FileLayout:
    """What a file's header says. The samples have `depth` bits: 8, 16 or, for floating point, 32.

    Args:
        profile, space: what the file says of its colours; of both, either or neither.
        converted_from: a profile of the pixels, where the file can say nothing and they are to become sRGB.
        notes: what the format cannot hold.
    """

    height: int
    width: int
    depth: int
    grey: bool
    alpha: bool
    profile: bytes | None
    space: ColourSpace | None
    converted_from: bytes | None
    exif: bytes | None
    xmp: bytes | None
    iptc: bytes | None
    resolution: Resolution | None
    text: tuple[Text, ...]
    notes: tuple[str, ...]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(_TYPES[self.depth])

    @property
    def channels(self) -> int:
        return (1 if self.grey else 3) + self.alpha

    @property
    def row_bytes(self) -> int:
        return self.width * self.channels * self.dtype.itemsize

    @property
    def strip_rows(self) -> int:
        """Rows that are converted and compressed at a time."""
        return max(1, _STRIP_BYTES // self.row_bytes)

    def samples(self, rows: Rows) -> np.ndarray:
        """(rows, width, channels) as the file stores them: clipped, and rounded to nearest."""
        colours, alpha = rows
        samples = _converted(colours, self.dtype if self.converted_from is None else np.dtype(np.uint16))
        if self.grey:
            grey = (samples @ _GREY_WEIGHTS)[:, :, None]
            samples = (np.rint(grey) if np.issubdtype(samples.dtype, np.integer) else grey).astype(samples.dtype)
        if self.converted_from is not None:
            samples = np.rint(in_srgb(samples, self.converted_from) / np.float32(257)).astype(self.dtype)
        if alpha is not None:
            samples = np.concatenate([samples, _converted(alpha, self.dtype)], axis=2)
        return samples


@dataclass(frozen=True)
class Strip:
    """`strip_rows` rows, or what is left at the bottom, in one part or several; and the row above them."""

    parts: list[Rows]
    above: Rows | None
    last: bool

    def samples(self, layout: FileLayout) -> np.ndarray:
        return np.concatenate([layout.samples(part) for part in self.parts])


def cut_into_strips(bands: Iterable[Band], layout: FileLayout) -> Iterator[Strip]:
    """The rows of all bands, from top to bottom, copied: whoever gave a band may change it afterwards.

    Raises: ShapeError for bands of another width, with or without alpha against the layout, or of too many or too
        few rows in all.
    """
    collected: list[Rows] = []
    above: Rows | None = None
    missing, left = min(layout.strip_rows, layout.height), layout.height
    for band in bands:
        _check_band(band, layout, left)
        top, rows = 0, band[0].shape[1]
        while top < rows:
            part = _copied(band[0], top, top + missing), _copied(band[1], top, top + missing)
            collected.append(part)
            taken = part[0].shape[1]
            top, missing, left = top + taken, missing - taken, left - taken
            if missing == 0:
                yield Strip(collected, above, last=left == 0)
                above = part[0][:, -1:], None if part[1] is None else part[1][:, -1:]
                collected, missing = [], min(layout.strip_rows, left)
    if left:
        raise ShapeError(f"expected {layout.height} rows in all bands, got {layout.height - left}; give all of them")


def in_srgb(samples: np.ndarray, profile: bytes) -> np.ndarray:
    """16-bit grey or RGB samples (rows, width, channels) through their profile.

    Raises: imagecodecs.CmsError for a profile that cannot be used.
    """
    import imagecodecs

    grey = samples.shape[2] == 1
    converted = imagecodecs.cms_transform(
        np.ascontiguousarray(samples[:, :, 0] if grey else samples),
        profile,
        imagecodecs.cms_profile("srgb"),
        colorspace="gray" if grey else "rgb",
        outcolorspace="rgb",
        intent=1,  # relative colorimetric
    )
    return converted[:, :, 1:2] if grey else converted


def _check_band(band: Band, layout: FileLayout, rows_left: int) -> None:
    colours, alpha = band
    if colours.ndim != 3 or colours.shape[0] != 3 or colours.shape[2] != layout.width or colours.shape[1] > rows_left:
        raise ShapeError(
            f"expected a band (3, rows, {layout.width}) of at most {rows_left} rows, got {tuple(colours.shape)}"
        )
    if (alpha is not None) != layout.alpha:
        raise ShapeError(f"expected bands {'with' if layout.alpha else 'without'} alpha, as the picture is")
    if alpha is not None and tuple(alpha.shape) != (1, *colours.shape[1:]):
        raise ShapeError(f"expected alpha {(1, *colours.shape[1:])} as the colours, got {tuple(alpha.shape)}")
    for part in band:
        if part is not None and not (part.is_floating_point() or part.dtype in (torch.uint8, torch.uint16)):
            raise ShapeError(f"expected floating-point, uint8 or uint16 pixels, got {part.dtype}; convert them")


@overload
def _copied(part: Tensor, top: int, bottom: int) -> np.ndarray: ...
@overload
def _copied(part: Tensor | None, top: int, bottom: int) -> np.ndarray | None: ...
def _copied(part: Tensor | None, top: int, bottom: int) -> np.ndarray | None:
    """By numpy: torch would copy each strip in several threads, which on a busy machine wait for one another."""
    if part is None:
        return None
    rows = part.detach()[:, top:bottom].cpu()
    return (rows.float() if rows.is_floating_point() else rows).numpy().copy(order="K")


def _converted(part: np.ndarray, dtype: np.dtype) -> np.ndarray:
    part = part.transpose(1, 2, 0)
    if part.dtype == np.float32:
        if not np.isfinite(part).all():
            raise Refusal("expected finite values, got NaN or infinity; compute again with `precision=fp32`")
        values = part.clip(0, 1)
        if dtype == np.float32:
            return values
        # In place: `clip` made a copy.
        return np.rint(np.multiply(values, np.iinfo(dtype).max, out=values), out=values).astype(dtype)
    if part.dtype == dtype:
        return part
    white = int(np.iinfo(part.dtype).max)
    if dtype == np.float32:
        return (part / np.float32(white)).astype(np.float32)
    new_white = int(np.iinfo(dtype).max)
    return ((part.astype(np.uint32) * new_white + white // 2) // white).astype(dtype)
