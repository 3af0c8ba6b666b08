"""Pictures that come in bands of rows from top to bottom, so that a large one never stands in memory as a whole."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from nlsr.images import resize
from nlsr.images.bicubic import _contributions

BAND_BYTES = 8 * 2**20
"""Size of the pieces that are handed on, in bytes: copies of pieces this small cost little."""


def pieces(band: Float[Tensor, "c rows w"], *, multiple: int = 1) -> Iterator[Float[Tensor, "c r w"]]:
    """A band in pieces of a few megabytes, each of a multiple of so many rows, clamped to [0, 1].

    They are copies: a view would keep the band alive while the next one is made.
    """
    row_bytes = band.shape[0] * band.shape[2] * band.element_size()
    step = max(1, BAND_BYTES // (row_bytes * multiple)) * multiple
    for top in range(0, band.shape[1], step):
        yield band[:, top : top + step].clamp(0, 1)


def resize_bands(
    bands: Iterator[Float[Tensor, "c r w"]], *, height: int, width: int, new_height: int, new_width: int
) -> Iterator[Float[Tensor, "c s new_w"]]:
    """What `nlsr.images.resize` makes of the whole, band by band; equal to it but for rounding.

    Args:
        bands: all rows of an image of this size, in order.
    """
    if (height, width) == (new_height, new_width):
        yield from bands
        return
    indices, weights = _contributions(height, new_height, new_height / height)
    weights = weights.float()
    last_needed = indices.amax(1).cummax(0).values
    first_needed = indices.amin(1).flip(0).cummin(0).values.flip(0)
    kept: Tensor | None = None  # input rows, columns resized, that output rows to come still need
    top = done = 0  # the first row kept, the output rows made
    for band in bands:
        narrow = resize(band, size=(band.shape[1], new_width)) if new_width != width else band
        kept = narrow if kept is None else torch.cat((kept, narrow), dim=1)
        ready = int(torch.searchsorted(last_needed, top + kept.shape[1]))
        if ready == done:
            continue
        yield _combined(kept, indices[done:ready] - top, weights[done:ready])
        done = ready
        if done < new_height:
            unneeded = int(first_needed[done]) - top
            # A copy, as a view would keep all rows alive.
            kept, top = kept[:, unneeded:].clone(), top + unneeded


def _combined(rows: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    total = rows.index_select(1, indices[:, 0]).mul_(weights[:, 0, None])
    for tap in range(1, indices.shape[1]):
        total.addcmul_(rows.index_select(1, indices[:, tap]), weights[:, tap, None])
    return total
