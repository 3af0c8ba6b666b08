"""What every network has in common: a config, an image out, and a trace for those who ask."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nlsr.attention import Affinity, Draws, Keep, Operator, SharedAttention
from nlsr.errors import ShapeError
from nlsr.networks.configs import check_config

NetworkDraws = Sequence[Tensor] | torch.Generator
Collect = Callable[[Affinity], None]
"""Called with each affinity that was matched, in order."""
Observed = list[tuple[Tensor, ...]]
"""For each operator, what it learns from: tensors whose first axis is the images, or nothing."""


@dataclass(frozen=True)
class Trace:
    """An upscaled image and how it came about."""

    upscaled: Tensor
    """(batch, 3, scale * height, scale * width), RGB; about [0, 1], not clamped."""
    affinities: tuple[Affinity, ...]
    """Those that were matched, in order; one that groups share appears once."""


class Network(nn.Module, ABC):
    """Enlarges RGB images in [0, 1] by an integer scale. Accepts every size from 1x1 up."""

    def __init__(self, config: Any) -> None:
        """
        Args:
            config: the frozen dataclass the network is built from; has a `scale`.
        Raises: ShapeError that names each field with a value that it does not take.
        """
        check_config(config)
        super().__init__()
        self.config = config
        self.draws: NetworkDraws | None = None
        """What `forward` and `trace` draw from. None: equal calls give equal results. A generator: new directions in
        each call, as the published networks draw them."""

    @property
    def scale(self) -> int:
        return self.config.scale

    @property
    def joined_patches(self) -> int:
        """In training, so many patches of a batch in turn are one set of positions for every attention. A weight file
        keeps the number."""
        return max((attention.joined_patches for attention in self._attentions()), default=1)

    @joined_patches.setter
    def joined_patches(self, number: int) -> None:
        for attention in self._attentions():
            attention.joined_patches = number

    def forward(self, low_res: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 sh sw"]:
        """The upscaled images. An affinity lives no longer than it is used.

        Raises: ShapeError if `draws` are not as many as operators.
        """
        return self._upscale(low_res, draws=self._checked(self.draws), keep="stored", collect=_forget)

    def trace(
        self,
        low_res: Float[Tensor, "b 3 h w"],
        *,
        draws: NetworkDraws | None = None,
        keep: Keep = "stored",
        only: int | None = None,
    ) -> Trace:
        """Upscale and keep the affinities.

        Args:
            low_res: RGB in [0, 1].
            draws: random directions for each of `operators()`, a CPU generator to draw them from (as the published
                networks do at every call). By default `self.draws`; if these are None too, those of the seed and size,
                so that equal calls give equal results.
            keep: whether affinities hold their weights (`stored`) or make them again when asked (`recomputed`).
            only: the index of the one affinity to keep, for less memory; by default all are kept.
        Raises: ShapeError if draws are not as many as operators.
        """
        draws = self._checked(self.draws if draws is None else draws)
        affinities: list[Affinity] = []
        indices = count()

        def collect(affinity: Affinity) -> None:
            if next(indices) == only or only is None:
                affinities.append(affinity)

        upscaled = self._upscale(low_res, draws=draws, keep=keep, collect=collect)
        return Trace(upscaled, tuple(affinities))

    @abstractmethod
    def _upscale(
        self, low_res: Float[Tensor, "b 3 h w"], *, draws: NetworkDraws | None, keep: Keep, collect: Collect
    ) -> Float[Tensor, "b 3 sh sw"]:
        """What the network does; arguments as in `trace`."""

    @abstractmethod
    def bytes_per_pixel(self) -> int:
        """Peak memory per low-res pixel of upscaling without gradients, beyond the weights."""

    def operators(self) -> list[Operator]:
        """Those that matched the affinities of a trace, in the same order; by default each module that is one, once."""
        return [module for module in self.modules() if isinstance(module, Operator)]

    def attention_losses(self, trace: Trace) -> Float[Tensor, " attentions"]:
        """The losses that operators have of their own, of a traced batch, in order; empty if there is none.

        ENLCN's is contrastive; its published training adds 0.001 times their mean to L1.
        """
        found = [operator.loss(affinity) for operator, affinity in self._matched(trace)]
        losses = [loss for loss in found if loss is not None]
        return torch.stack(losses) if losses else trace.upscaled.new_zeros(0)

    def observe(self, trace: Trace) -> Observed:
        """What `learn` needs of a traced batch or part of a batch; holds no graph and no weights of affinities."""
        return [operator.observe(affinity) for operator, affinity in self._matched(trace)]

    def learn(self, *observed: Observed, generator: torch.Generator) -> None:
        """Let the operators learn from a batch what no gradient reaches; for the training loop, after a step.

        Args:
            observed: the parts of the batch, in order; however it is divided, what is learned is the same.
            generator: a CPU generator, in the same state on all ranks.
        """
        for operator, *parts in zip(self.operators(), *observed, strict=True):
            whole = tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
            if whole:
                operator.learn(*whole, generator=generator)

    def fit(self, observed: Observed) -> dict[str, float]:
        """How well what operators learned fits a part of a batch: means over all that have something to say."""
        found = [operator.fit(*each) for operator, each in zip(self.operators(), observed, strict=True) if each]
        names = dict.fromkeys(name for numbers in found for name in numbers)
        return {name: fmean(numbers[name] for numbers in found if name in numbers) for name in names}

    def redraw(self, generator: torch.Generator) -> None:
        """New directions, from a CPU generator, for the attentions whose random directions belong to the weights."""
        for operator in self.operators():
            operator.redraw(generator)

    def _attentions(self) -> list[SharedAttention]:
        return [module for module in self.modules() if isinstance(module, SharedAttention)]

    def _checked(self, draws: NetworkDraws | None) -> NetworkDraws | None:
        if isinstance(draws, Sequence) and len(draws) != len(self.operators()):
            raise ShapeError(f"expected draws for {len(self.operators())} operators, got {len(draws)}")
        return draws

    def _matched(self, trace: Trace) -> Iterator[tuple[Operator, Affinity]]:
        return zip(self.operators(), trace.affinities, strict=True)


def _forget(affinity: Affinity) -> None:
    pass


def draws_in_turn(draws: NetworkDraws | None) -> Iterator[Draws | None]:
    """What each operator of a network gets, in order."""
    if draws is None or isinstance(draws, torch.Generator):
        return cycle((draws,))  # not `repeat`, which torch.compile does not know
    return iter(draws)
