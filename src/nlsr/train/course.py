"""The batches of a whole training in order: stages of growing patches, each batch in the parts it is computed in.

A part is a pure function of its number, so that a resumed run sees exactly what an uninterrupted one sees.
"""

from bisect import bisect_right
from collections.abc import Iterator

from torch import Tensor
from torch.utils.data import Dataset, Sampler

from nlsr.errors import RecipeError
from nlsr.train.data import Batches, Pairs, Places
from nlsr.train.recipe import Recipe, Stage


class Course(Dataset[tuple[Tensor, ...] | Places]):
    """Part p of the batch of step s has number s * accumulate + p; each rank gets its share of it."""

    def __init__(self, recipe: Recipe, pairs: Pairs, *, cut: bool = True, rank: int = 0, ranks: int = 1) -> None:
        """
        Args:
            cut: give patches; otherwise the places where they may be cut.
        Raises: RecipeError if a batch cannot be divided, or no image holds a patch of some stage.
        """
        self.cut = cut
        self.accumulate, stages = recipe.training.accumulate, recipe.training.stages
        multiple = ranks * self.accumulate * recipe.training.joined_patches
        for stage in stages:
            if stage.batch_size % multiple:
                raise RecipeError(
                    f"training.batch_size: {stage.batch_size} patches cannot be divided into {self.accumulate} parts "
                    f"on each of {ranks} processes; expected a multiple of {multiple}"
                )
        self.firsts = [stage.first for stage in stages]
        shares = range(rank * self.accumulate, (rank + 1) * self.accumulate)
        self.stages = [
            [_batches(recipe, pairs, stage, share, ranks * self.accumulate) for share in shares] for stage in stages
        ]

    def __getitem__(self, number: int) -> tuple[Tensor, ...] | Places:
        step, part = divmod(number, self.accumulate)
        batches = self._stage(step)[part]
        return batches[step] if self.cut else batches.places(step)

    def patch_size(self, step: int) -> int:
        """Side of the low-res patches of a step, in pixels."""
        return self._stage(step)[0].patch_size

    def _stage(self, step: int) -> list[Batches]:
        """The parts of a step's batch."""
        return self.stages[bisect_right(self.firsts, step) - 1]


def _batches(recipe: Recipe, pairs: Pairs, stage: Stage, share: int, shares: int) -> Batches:
    """A part of a batch is what one of so many more ranks would get."""
    return Batches(
        pairs,
        patch_size=stage.patch_size,
        batch_size=stage.batch_size,
        seed=recipe.seed,
        degradation=recipe.data.degradation,
        augmentation=recipe.data.augmentation,
        most_detailed_of=recipe.data.most_detailed_of,
        rank=share,
        ranks=shares,
    )


class Numbers(Sampler[int]):
    """The parts that are left. Its length is that of the whole run, by which Lightning counts when it resumes."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last))

    def __len__(self) -> int:
        return self.last
