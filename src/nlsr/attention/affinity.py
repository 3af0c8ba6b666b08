"""The shared idea: matching positions gives an affinity, and whoever holds an affinity can aggregate values with it.

Because that is a property of the interface, every operator can be shared between blocks. Knows nothing of images or
networks.

What a new operator must have is `Operator.match`, and what its affinity must have are `aggregate`, `rows` and the sizes
that `Affinity.__init__` takes; often one of the affinities that are here will do. Everything else has a default, and is
overridden where the operator has more to say:

* the affinity: `reach` and `reach_is` (which keys a query can draw on), `groups` (which group a position is in);
* the operator: `floats_per_position` (for the memory budget), `groups_are`, `observe`, `learn` and `fit` (what no
  gradient reaches), `loss`, `redraw` (directions that belong to the weights), `exact` (for benchmarks),
  `network_settings` (the fields of a network's config that it wants), `no_graph`, `every_direction` and
  `floats_in_graph` (for graphs that are exported).
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nlsr.attention.streamed import in_graph
from nlsr.errors import ShapeError

Keep = Literal["stored", "recomputed"]
"""What an affinity holds on to: its weights, or only what they are made from (less memory, more arithmetic)."""

Draws = Tensor | torch.Generator
"""Random directions, or where to draw them from."""


class Affinity(ABC):
    """How strongly each query position draws on each key position. Non-negative; its rows need not sum to one."""

    num_queries: int
    num_keys: int
    height: int
    """Height of the map whose positions, in row-major order, are the queries."""
    width: int
    cell: int = 1
    """Positions of the map per key, along a side: the keys lie on a map of (height / cell) x (width / cell)."""
    reach_is: str = "all"
    """What the positions are called that a query can reach."""

    def __init__(self, num_queries: int, num_keys: int | None = None, *, size: tuple[int, int] | None = None) -> None:
        """
        Args:
            num_keys: as many as queries by default.
            size: height and width of the map; one row by default.
        """
        self.num_queries = num_queries
        self.num_keys = num_queries if num_keys is None else num_keys
        self.height, self.width = size or (1, num_queries)

    @abstractmethod
    def aggregate(self, values: Float[Tensor, "b keys c"]) -> Float[Tensor, "b queries c"]:
        """What each query receives: the values of all keys, weighted by its row. Differentiable in both factors."""

    @abstractmethod
    def rows(self, queries: Int[Tensor, " q"]) -> Float[Tensor, "b q keys"]:
        """The rows of the affinity matrix for these query positions; costs q * keys per image."""

    def dense(self) -> Float[Tensor, "b queries keys"]:
        """The whole matrix: quadratic, for small maps and tests only."""
        return self.rows(torch.arange(self.num_queries))

    def reach(self, queries: Int[Tensor, " q"]) -> Bool[Tensor, " keys"] | None:
        """The keys that any of these queries can draw on, in any image, round or head, if only with a weight that
        rounds to zero; None if these are all."""
        return None

    def marked(self, *keys: Int[Tensor, "*_"]) -> Bool[Tensor, " keys"]:
        """True at these keys, for a `reach`."""
        marks = torch.zeros(self.num_keys, dtype=torch.bool)
        for some in keys:
            marks[some.flatten().cpu()] = True
        return marks

    def groups(self) -> Int[Tensor, "b r keys"] | None:
        """The group (cluster, bucket, window) of each key, in each round; None if there are no groups."""
        return None


class Operator(nn.Module, ABC):
    """A way of matching positions."""

    network_settings: ClassVar[tuple[str, ...]] = ()
    """Keywords of the constructor that a network fills from the fields of its config that have these names; `seed` is
    the number of the operator in the network."""
    groups_are: str = ""
    """What the groups of its affinities are called, in the plural; empty if there are none."""
    no_graph: str = ""
    """Why it cannot be part of a graph for every size, as an end of a sentence; empty if it can."""
    scale: int = 1
    """How much larger than the features the map is that its affinities draw."""

    @abstractmethod
    def match(
        self, features: Float[Tensor, "b c h w"], *, draws: Draws | None = None, keep: Keep = "stored"
    ) -> Affinity:
        """The affinity between the positions of a feature map, in row-major order. Never changes a buffer.

        Args:
            draws: for operators that draw random directions: the directions themselves (as published runs are
                repeated), a CPU generator to draw new ones from (as in training), or None for those that belong to
                the operator's seed and the size of the map, so that equal calls give equal results.
            keep: what the affinity holds on to.
        """

    def every_direction(self) -> Tensor | None:
        """For a graph that takes maps of every size: the random directions of all sizes, one behind the other. While it
        is recorded the operator holds them as its buffer `directions_held`. By default None: nothing is drawn."""
        return None

    def floats_per_position(self, channels: int) -> int:
        """Numbers that a match and what is aggregated with it hold at their peak, per position, beside the features,
        the values and the result: for memory budgets. By default a guess on the safe side.

        Args:
            channels: number of channels of the features and of the values.
        """
        return 1024

    def floats_in_graph(self) -> int:
        """Numbers per position that a graph holds for a match and torch does not: where a fused kernel, or blocks,
        never have all weights at once, a graph has. By default none."""
        return 0

    def observe(self, affinity: Any) -> tuple[Tensor, ...]:
        """What `learn` and `fit` need of an affinity this operator matched: detached tensors, images first. By default
        nothing, and neither is called."""
        return ()

    def learn(self, *observed: Tensor, generator: torch.Generator) -> None:
        """Adapt what no gradient reaches to a batch that was observed; called by the training loop after a step."""

    def learn_from(self, affinity: Affinity, generator: torch.Generator | None = None) -> None:
        """Observe an affinity and learn from it: the one call that a training loop of your own needs, after each step.

        Args:
            generator: a CPU generator, in the same state on all ranks; by default one with the seed 0.
        """
        observed = self.observe(affinity)
        if observed:
            self.learn(*observed, generator=generator or torch.Generator().manual_seed(0))

    def fit(self, *observed: Tensor) -> dict[str, float]:
        """How well what was learned fits a batch that was observed: numbers by name."""
        return {}

    def loss(self, affinity: Any) -> Float[Tensor, ""] | None:
        """What the operator itself wants to be small in training, of an affinity it matched; None for nothing."""
        return None

    def redraw(self, generator: torch.Generator) -> None:
        """New random directions, from a CPU generator, where they belong to the weights; nothing by default."""

    def extra_repr(self) -> str:
        return shown_sizes(self)

    def exact(self, features: Float[Tensor, "b c h w"]) -> Affinity | None:
        """Exact softmax attention with the same queries and keys, which the match is measured against; None where
        that has no meaning."""
        return None

    @classmethod
    def has_own(cls, method: str) -> bool:
        """Whether `learn`, `loss` or `redraw` does something."""
        return getattr(cls, method) is not getattr(Operator, method)


class SharedAttention(nn.Module):
    """One residual block: matches, if it owns an operator, or reuses the affinity it is given, then aggregates.

    `input_scale * features + residual_scale * aggregate(values(features))`. The first block of a network owns the
    operator; the blocks that share its affinity own none and pay only for the aggregation.

    Source: LCoAN (arXiv 2404.04922), Collaborative Attention.
    """

    def __init__(
        self,
        channels: int,
        operator: Operator | None = None,
        *,
        values: nn.Module | None = None,
        residual_scale: float = 1.0,
        input_scale: float = 1.0,
    ) -> None:
        """
        Args:
            channels: number of channels of the features, in and out.
            operator: matches the features; None for a block that only reuses.
            values: makes the values from the features; a 1x1 convolution by default.
            residual_scale: factor of what the attention adds.
            input_scale: factor of the features it is added to; NLAN's is below one, CSNLN's zero.
        """
        super().__init__()
        self.operator = operator
        self.values = nn.Conv2d(channels, channels, 1) if values is None else values
        self.residual_scale, self.input_scale = residual_scale, input_scale
        self.joined_patches = 1
        """How many feature maps of a batch form one set of positions in training: a position draws on those of all.
        Patches are small, and an attention that has seen only one of them at a time does worse in whole images."""

    def forward(
        self,
        features: Float[Tensor, "b c h w"],
        affinity: Affinity | None = None,
        *,
        draws: Draws | None = None,
        keep: Keep = "stored",
    ) -> tuple[Float[Tensor, "b c h w"], Affinity]:
        """Returns the refined features and the affinity that was used, for the next block.

        Raises: ShapeError if the block owns no operator and gets no affinity, or one of another size.
        """
        joined = self.joined_patches if self.training else 1
        whole = rearrange(features, "(b joined) c h w -> b c (joined h) w", joined=joined)
        refined, affinity = self._refine(whole, affinity, draws, keep)
        return rearrange(refined, "b c (joined h) w -> (b joined) c h w", joined=joined), affinity

    def extra_repr(self) -> str:
        return shown_sizes(self)

    def _refine(
        self, features: Float[Tensor, "b c h w"], affinity: Affinity | None, draws: Draws | None, keep: Keep
    ) -> tuple[Float[Tensor, "b c h w"], Affinity]:
        height, width = features.shape[-2:]
        if affinity is None:
            if self.operator is None:
                raise ShapeError("this block owns no operator: expected an affinity to reuse, got none")
            affinity = self.operator.match(features, draws=draws, keep=keep)
        check_size(affinity, height, width)
        drawn = affinity.aggregate(to_tokens(self.values(features)))
        kept = features if self.input_scale == 1 else self.input_scale * features
        return kept.add(to_map(drawn, height, width), alpha=self.residual_scale), affinity


class ResidualAttention(nn.Module):
    """Any operator as one residual block that shares nothing: features in, refined features out.

        block = ResidualAttention(64, NonLocalSparse(64, chunk_size=144), residual_scale=0.1)

    What no gradient reaches, like the clusters of a `LearnableSparsePattern`, learns if `learn` is called after each
    step of training: that of the block, or the function `learn` for all blocks of a network.
    """

    def __init__(
        self, channels: int, operator: Operator, *, values: nn.Module | None = None, residual_scale: float = 1.0
    ) -> None:
        """
        Args:
            channels: number of channels of the features, in and out.
            operator: matches the features.
            values: makes the values from the features; a 1x1 convolution by default.
            residual_scale: factor of what the attention adds.
        """
        super().__init__()
        self.attention = SharedAttention(channels, operator, values=values, residual_scale=residual_scale)
        self._observed: tuple[Tensor, ...] = ()

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        refined, affinity = self.attention(features)
        if self.training:
            self._observed = self._operator.observe(affinity)
        return refined

    def learn(self, generator: torch.Generator | None = None) -> None:
        """Let the operator learn from the last forward pass in training mode, once.

        Args:
            generator: as `Operator.learn_from` takes it.
        """
        observed, self._observed = self._observed, ()
        if observed:
            self._operator.learn(*observed, generator=generator or torch.Generator().manual_seed(0))

    @property
    def _operator(self) -> Operator:
        assert self.attention.operator is not None
        return self.attention.operator


def learn(network: nn.Module, generator: torch.Generator | None = None) -> None:
    """Let every `ResidualAttention` of a network learn: the one line that a training loop needs after each step.

    Args:
        generator: as `Operator.learn_from` takes it.
    """
    for module in network.modules():
        if isinstance(module, ResidualAttention):
            module.learn(generator)


def check_size(affinity: Affinity, height: int, width: int) -> None:
    """Raises: ShapeError if an affinity does not belong to a map of this size."""
    if (affinity.height, affinity.width) != (height, width):
        raise ShapeError(
            f"expected an affinity of a {height}x{width} map, got one of {affinity.height}x{affinity.width}; "
            "an affinity can be reused on feature maps of its own size only"
        )


def shown_sizes(module: nn.Module) -> str:
    """The numbers and words that a module keeps beside its weights, for its `repr`."""
    sizes = {name: value for name, value in vars(module).items() if type(value) in (int, float, str)}
    return ", ".join(f"{name}={value!r}" for name, value in sizes.items() if not name.startswith("_"))


def map_size(features: Float[Tensor, "b c h w"]) -> tuple[int, int]:
    """Height and width."""
    return features.shape[-2], features.shape[-1]


def to_tokens(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b l c"]:
    """Positions in row-major order."""
    if in_graph():  # a copy in any case: what can be viewed otherwise depends on the number of images
        return features.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).flatten(1, 2)
    return features.flatten(2).transpose(1, 2)


def to_map(tokens: Float[Tensor, "b l c"], height: int, width: int) -> Float[Tensor, "b c h w"]:
    """The inverse of `to_tokens`."""
    return rearrange(tokens, "b (h w) c -> b c h w", h=height, w=width)


def matching_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of scores and sums: at least float32, whatever the precision around them."""
    return torch.promote_types(dtype, torch.float32)
