"""The batch of each step, as a pure function of seed and step.

Because a batch depends on nothing else, a resumed run sees exactly what an uninterrupted one sees.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from nlsr.errors import RecipeError
from nlsr.images import resize
from nlsr.mirror import mirrored
from nlsr.train.data.augment import AugmentationSection, flip_and_turn, paste, random_rectangle
from nlsr.train.data.degradation import DegradationSection, degrade
from nlsr.train.data.pairs import Pairs

CONTEXT = 8
"""Low-res pixels around a patch that are degraded with it and then cut off, so that its borders are no borders."""

PLAIN = AugmentationSection()


class Places(NamedTuple):
    """Where the patches of a batch may be cut: for each of b patches k places, of which one is taken."""

    images: Int[Tensor, "b k"]
    """Numbers of pairs."""
    corners: Int[Tensor, "b k 2"]
    """First rows and columns, in low-res pixels."""
    turns: Int[Tensor, " b"]
    """Symmetries of the square, see `flip_and_turn`."""


class Batches(Dataset[tuple[Tensor, ...]]):
    """The batch of each step: aligned random crops, degraded and augmented as the recipe says, as float in [0, 1].

    Low-res and high-res patches, and where the pairs have a teacher, what it makes of the plain low-res image there.

    An image is drawn in proportion to its pixels. Of `most_detailed_of` places drawn for each patch, the one with most
    detail is taken. In a distributed run each rank takes its part of the same batch.
    """

    def __init__(
        self,
        pairs: Pairs,
        *,
        patch_size: int,
        batch_size: int,
        seed: int,
        degradation: DegradationSection | None = None,
        augmentation: AugmentationSection = PLAIN,
        most_detailed_of: int = 1,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """
        Args:
            most_detailed_of: places that are drawn for each patch.
            degradation: how low-res patches are made; by default those of the pairs are taken.
            augmentation: how patches are varied; by default flipped and turned.
        Raises: RecipeError if no image is large enough or the batch cannot be divided by the ranks.
        """
        self.sizes = np.array(pairs.sizes)
        usable = np.flatnonzero(self.sizes.min(axis=1) >= patch_size)
        if not len(usable):
            raise RecipeError(
                f"no training image holds a patch of {patch_size}x{patch_size} low-res pixels "
                f"({patch_size * pairs.scale} high-res); use a smaller training.patch_size or larger images"
            )
        if batch_size % ranks:
            raise RecipeError(f"training.batch_size: expected a multiple of the {ranks} processes, got {batch_size}")
        self.pairs, self.usable = pairs, usable
        self.degradation, self.augmentation = degradation, augmentation
        self.patch_size, self.batch_size, self.seed = patch_size, batch_size, seed
        self.most_detailed_of = most_detailed_of
        self.mine = range(rank * batch_size // ranks, (rank + 1) * batch_size // ranks)
        areas = self.sizes[usable].prod(axis=1).astype(np.float64)
        self.chances = areas / areas.sum()

    def __getitem__(self, step: int) -> tuple[Float[Tensor, "b 3 _h _w"], ...]:
        patches = []
        for number, *place, turn in zip(self.mine, *(part.tolist() for part in self.places(step)), strict=True):
            generator = np.random.default_rng([self.seed, step, 1 + number])
            patches.append(self._patch(*self._most_detailed(*place), turn, generator))
        return tuple(torch.stack(part).float().div_(255) for part in zip(*patches, strict=True))

    def places(self, step: int) -> Places:
        """Where the patches of this rank may be cut, `most_detailed_of` places for each."""
        generator = np.random.default_rng([self.seed, step])
        shape = self.batch_size, self.most_detailed_of
        images = generator.choice(self.usable, shape, p=self.chances)
        corners = self._corners(images, generator.random((*shape, 2)))
        turns = generator.integers(8, size=self.batch_size) * self.augmentation.flips_and_turns
        mine = slice(self.mine.start, self.mine.stop)
        return Places(*(torch.from_numpy(part[mine]) for part in (images, corners, turns)))

    def _corners(self, images: Any, shares: np.ndarray) -> np.ndarray:
        """The first row and column of patches whose places are shares of those that there are."""
        corners: np.ndarray = (shares * (self.sizes[images] - self.patch_size + 1)).astype(np.int64)
        return corners

    def _most_detailed(self, images: list[int], corners: list[list[int]]) -> tuple[int, list[int]]:
        """That image and corner of those given whose low-res pixels differ most from their neighbours."""
        best = 0
        if len(images) > 1:
            best = int(np.argmax([self._detail(*place) for place in zip(images, corners, strict=True)]))
        return images[best], corners[best]

    def _detail(self, index: int, corner: list[int]) -> int:
        """The sum of all differences between neighbouring pixels of a low-res patch, in 8-bit steps."""
        top, left = corner
        patch = self.pairs[index][0][:, top : top + self.patch_size, left : left + self.patch_size]
        return int(detail(patch.to(torch.int16)))

    def _patch(self, index: int, corner: list[int], turn: int, generator: np.random.Generator) -> list[Tensor]:
        """Low-res, high-res and perhaps taught, augmented; `generator` decides what the other arguments do not."""
        settings = self.augmentation
        images = self._cut(index, corner, turn, generator)
        if settings.cut_mix and generator.random() < settings.cut_mix:
            other = int(generator.choice(self.usable, p=self.chances))
            corner = self._corners(other, generator.random(2)).tolist()
            turn = int(generator.integers(8)) * settings.flips_and_turns
            others = self._cut(other, corner, turn, generator)
            rectangle = random_rectangle(self.patch_size, generator)
            factors = [1] + [self.pairs.scale] * (len(images) - 1)
            both = zip(images, others, factors, strict=True)
            images = [paste(image, another, rectangle, factor) for image, another, factor in both]
        if settings.permute_colours and generator.random() < settings.permute_colours:
            channels = generator.permutation(3)
            images = [image[channels] for image in images]
        return images

    def _cut(self, index: int, corner: list[int], turn: int, generator: np.random.Generator) -> list[Tensor]:
        """A patch of one image, degraded or plain, flipped and turned."""
        low, high = self.pairs[index]
        size, scale = self.patch_size, self.pairs.scale
        top, left = corner
        whole = slice(top * scale, (top + size) * scale), slice(left * scale, (left + size) * scale)
        taught = [self.pairs.taught(index)[:, *whole]] if self.pairs.teacher else []
        degradation = self.degradation
        if degradation is not None and generator.random() < degradation.clean:
            degradation = None
        if degradation is None and self.augmentation.zoom is None:
            low = low[:, top : top + size, left : left + size]
            high = high[:, *whole]
        else:
            low, high = self._made(high, top, left, degradation, generator)
        return [flip_and_turn(image, turn) for image in (low, high, *taught)]

    def _made(
        self, high: Tensor, top: int, left: int, degradation: DegradationSection | None, generator: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """The patch at (top, left) with a low-res version of its own, both cut out of larger ones.

        It lies a little off the middle of those, as the blocks of JPEG begin anywhere in a patch.
        """
        size, scale, settings = self.patch_size, self.pairs.scale, self.augmentation
        before = [int(pixels) for pixels in generator.integers(CONTEXT - 4, CONTEXT + 4, size=2)]
        zoom = 1.0 if settings.zoom is None else generator.uniform(*settings.zoom)
        around = _around(high, (top - before[0], left - before[1]), size + 2 * CONTEXT, scale, zoom)
        if degradation is None:
            low = resize(around, scale=1 / scale)
        else:
            low = degrade(around, scale=scale, settings=degradation, generator=generator)
            if settings.cut_clean and generator.random() < settings.cut_clean:
                images = [low, resize(around, scale=1 / scale)]
                one, other = images if generator.random() < 0.5 else reversed(images)
                low = paste(one, other, random_rectangle(size + 2 * CONTEXT, generator))
        low = low[:, before[0] : before[0] + size, before[1] : before[1] + size]
        top, left = (scale * start for start in before)
        return low, around[:, top : top + scale * size, left : left + scale * size]


def detail(patches: Int[Tensor, "*b 3 h w"]) -> Int[Tensor, "*b"]:
    """How much neighbouring pixels of patches differ, in all."""
    below, beside = (patches.diff(dim=dim).abs().sum((-3, -2, -1)) for dim in (-2, -1))
    return below + beside


def _around(image: Tensor, corner: tuple[int, int], size: int, scale: int, zoom: float) -> Tensor:
    """A square of `size` low-res pixels at a corner, in high-res; shrunk by `zoom` it shows more around its middle.

    The image is continued by its mirror image.
    """
    side = max(1, round(size * scale / zoom))
    starts = [start * scale + (size * scale - side) // 2 for start in corner]
    rows, columns = (mirrored(start, start + side, end) for start, end in zip(starts, image.shape[1:], strict=True))
    found = image[:, rows[:, None], columns]
    return found if side == size * scale else resize(found, size=(size * scale, size * scale))
