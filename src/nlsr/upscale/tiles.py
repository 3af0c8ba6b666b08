"""Where an image is cut, and how upscaled tiles are blended: pure functions of sizes.

Along each axis, tiles of equal size start at even distances, and each two neighbours share an overlap in which the
weight passes linearly from one to the other. Knows nothing of networks.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

OVERLAP = 24
"""Least number of low-res pixels that neighbouring tiles share. What a network's local layers see beyond is too weak
to show: its effective reach is far below the sum of its kernels."""


@dataclass(frozen=True)
class Axis:
    """The tiles along one axis, in low-res pixels."""

    size: int
    tile_size: int
    starts: tuple[int, ...]

    @classmethod
    def cut(cls, size: int, tile_size: int) -> "Axis":
        """As few tiles of at most `tile_size` as cover `size` with the least overlap, and no larger than that takes."""
        overlap = min(OVERLAP, tile_size // 3)  # at most two tiles meet in any pixel
        count = 1 if tile_size >= size else -(-(size - overlap) // (tile_size - overlap))
        tile_size = -(-(size + (count - 1) * overlap) // count)
        starts = tuple(round(i * (size - tile_size) / (count - 1)) for i in range(count)) if count > 1 else (0,)
        return cls(size, tile_size, starts)

    def overlap_before(self, index: int) -> int:
        """Pixels shared with the tile before; 0 for the first and behind the last."""
        if not 0 < index < len(self.starts):
            return 0
        return self.starts[index - 1] + self.tile_size - self.starts[index]

    def weights(self, index: int, scale: int) -> Float[Tensor, " high"]:
        """The weight of each high-res pixel of a tile; the weights of all tiles at a pixel sum to one."""
        weights = torch.ones(self.tile_size * scale)
        before, after = self.overlap_before(index) * scale, self.overlap_before(index + 1) * scale
        if before:
            weights[:before] = _ramp(before)
        if after:
            weights[-after:] -= _ramp(after)
        return weights


def _ramp(size: int) -> Tensor:
    """From 0 to 1; flat in the outer quarters, where a tile's own border falsifies it."""
    position = (torch.arange(size) + 0.5) / size
    return ((position - 0.25) * 2).clamp(0, 1)
