"""How published numbers were made in tiles, for whoever repeats them; pictures are better cut by `tiles.py`.

Each function takes what upscales a tile: a network, or any function from (b, 3, h, w) to (b, 3, scale*h, scale*w).
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

Upscale = Callable[[Tensor], Tensor]

MARGIN = 10
"""Low-res pixels that a quarter reaches beyond the middle, at least."""
EDSR_LIMIT, CSNLN_LIMIT = 120_000, 3_600
"""Low-res pixels of a quarter from which it is cut again."""


def average_tiles(
    upscale: Upscale, low_res: Float[Tensor, "b 3 h w"], *, tile: int = 64, overlap: int = 24
) -> Float[Tensor, "b 3 sh sw"]:
    """Square tiles at even distances, the last one moved back to the edge; where tiles overlap, their plain mean.

    As ASID's numbers were made. There the side of a tile is that of the image where that is less, and images of fewer
    than 25 pixels a side failed; here their tiles lie one pixel apart, at a cost to match.

    Args:
        tile: side of a tile, in low-res pixels.
        overlap: pixels shared by neighbours, at least.
    """
    height, width = low_res.shape[2:]
    tile = min(tile, height, width)
    step = max(1, tile - overlap)
    total = count = torch.empty(0)
    for top in _starts(height, tile, step):
        for left in _starts(width, tile, step):
            upscaled = upscale(low_res[:, :, top : top + tile, left : left + tile])
            scale = upscaled.shape[2] // tile
            if not total.numel():
                total = upscaled.new_zeros(*upscaled.shape[:2], scale * height, scale * width)
                count = torch.zeros_like(total)
            place = (..., slice(scale * top, scale * (top + tile)), slice(scale * left, scale * (left + tile)))
            total[place] += upscaled
            count[place] += 1
    return total / count


def edsr_quarters(upscale: Upscale, low_res: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 sh sw"]:
    """Four overlapping quarters, each cut again while it has 120,000 pixels or more; each gives its half of the rows
    and columns.

    As the numbers of LCoAN, NLSN, DLSN and ENLCN were made. A quarter reaches 11 to 14 rows and 11 to 18 columns past
    the middle; where that is beyond the image (published code fails), it ends with the image.
    """
    return _quarters(upscale, low_res, multiples=(4, 8), limit=EDSR_LIMIT)


def csnln_quarters(
    upscale: Upscale, low_res: Float[Tensor, "b 3 h w"], *, scale: int
) -> Float[Tensor, "b 3 {scale}*h {scale}*w"]:
    """As `edsr_quarters`, cut again down to fewer than 3,600 pixels, with sides that are multiples of the scale.

    As the numbers of CSNLN were made, whose attention therefore saw a region and not the image.
    """
    return _quarters(upscale, low_res, multiples=(scale, scale), limit=CSNLN_LIMIT)


def _starts(size: int, tile: int, step: int) -> list[int]:
    return [*range(0, size - tile, step), size - tile]


def _quarters(upscale: Upscale, low_res: Tensor, *, multiples: tuple[int, int], limit: int) -> Tensor:
    height, width = low_res.shape[2:]
    rows, columns = _reach(height, multiples[0]), _reach(width, multiples[1])
    if rows * columns >= limit:
        upscale = partial(_quarters, upscale, multiples=multiples, limit=limit)
    upper, lower = low_res[:, :, :rows], low_res[:, :, height - rows :]
    bands = []
    for band in (upper, lower):
        left, right = upscale(band[:, :, :, :columns]), upscale(band[:, :, :, width - columns :])
        bands.append(_join(left, right, axis=3, size=width, tile=columns))
    return _join(*bands, axis=2, size=height, tile=rows)


def _reach(size: int, multiple: int) -> int:
    """The side of a quarter: half and margin, then up to the next multiple, a whole one further if it is one."""
    least = size // 2 + MARGIN
    return min(size, least + multiple - least % multiple)


def _join(first: Tensor, second: Tensor, *, axis: int, size: int, tile: int) -> Tensor:
    """The first half from one tile, the rest from the other; sizes in low-res pixels."""
    scale = first.shape[axis] // tile
    half, rest = scale * (size // 2), scale * (size - size // 2)
    return torch.cat((first.narrow(axis, 0, half), second.narrow(axis, scale * tile - rest, rest)), dim=axis)
