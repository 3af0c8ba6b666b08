"""The batch of each step, as a pure function of seed and step.

Because a batch depends on nothing else, a resumed run sees exactly what an uninterrupted one sees.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from nlsr.errors import RecipeError
from nlsr.train.data.augment import flip_and_turn
from nlsr.train.data.degradation import DegradationSection, degrade
from nlsr.train.data.degradation.operations import mirrored
from nlsr.train.data.pairs import Pairs

CONTEXT = 8
"""Low-res pixels around a patch that are degraded with it and then cut off, so that its borders are no borders."""


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """The batch of each step: aligned random crops, each in one of eight flips and turns, as float in [0, 1].

    An image is drawn in proportion to its pixels. In a distributed run each rank takes its part of the same batch.
    """

    def __init__(
        self,
        pairs: Pairs,
        *,
        patch_size: int,
        batch_size: int,
        seed: int,
        degradation: DegradationSection | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """
        Args:
            degradation: how low-res patches are made; by default those of the pairs are taken.
        Raises: RecipeError if no image is large enough or the batch cannot be divided by the ranks.
        """
        sizes = pairs.sizes
        usable = [i for i, size in enumerate(sizes) if min(size) >= patch_size]
        if not usable:
            raise RecipeError(
                f"no training image holds a patch of {patch_size}x{patch_size} low-res pixels "
                f"({patch_size * pairs.scale} high-res); use a smaller training.patch_size or larger images"
            )
        if batch_size % ranks:
            raise RecipeError(f"training.batch_size: expected a multiple of the {ranks} processes, got {batch_size}")
        self.pairs, self.usable, self.degradation = pairs, usable, degradation
        self.patch_size, self.batch_size, self.seed = patch_size, batch_size, seed
        self.mine = slice(rank * batch_size // ranks, (rank + 1) * batch_size // ranks)
        areas = np.array([math.prod(sizes[i]) for i in usable], dtype=np.float64)
        self.chances = areas / areas.sum()

    def __getitem__(self, step: int) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 sh sw"]]:
        draw = np.random.default_rng([self.seed, step])
        images = draw.choice(self.usable, self.batch_size, p=self.chances)
        places, turns = draw.random((self.batch_size, 2)), draw.integers(8, size=self.batch_size)
        crops = [
            self._crop(int(images[i]), places[i], int(turns[i]), np.random.default_rng([self.seed, step, 1 + i]))
            for i in range(self.batch_size)[self.mine]
        ]
        low, high = (torch.stack(part).float().div_(255) for part in zip(*crops, strict=True))
        return low, high

    def _crop(self, index: int, place: np.ndarray, turn: int, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
        low, high = self.pairs[index]
        size, scale = self.patch_size, self.pairs.scale
        top, left = (int(p * (side - size + 1)) for p, side in zip(place, low.shape[1:], strict=True))
        if self.degradation is not None and draw.random() >= self.degradation.clean:
            low = self._degraded(high, top, left, self.degradation, draw)
        else:
            low = low[:, top : top + size, left : left + size]
        high = high[:, top * scale : (top + size) * scale, left * scale : (left + size) * scale]
        return flip_and_turn(low, turn), flip_and_turn(high, turn)

    def _degraded(
        self, high: Tensor, top: int, left: int, settings: DegradationSection, draw: np.random.Generator
    ) -> Tensor:
        """The patch at (top, left), cut out of a larger one that was degraded.

        It lies a little off the middle of that one, as the blocks of JPEG begin anywhere in a patch.
        """
        size, scale = self.patch_size, self.pairs.scale
        before = draw.integers(CONTEXT - 4, CONTEXT + 4, size=2)
        rows, columns = (
            mirrored((start - int(b)) * scale, (start - int(b) + size + 2 * CONTEXT) * scale, side)
            for start, b, side in zip((top, left), before, high.shape[1:], strict=True)
        )
        low = degrade(high[:, rows[:, None], columns], scale=scale, settings=settings, draw=draw)
        return low[:, before[0] : before[0] + size, before[1] : before[1] + size]
