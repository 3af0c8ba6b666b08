"""Window and grid attention whose affinity is shared between blocks (ASID): groups of side * side positions, each of
which attends to itself.

A *window* is a square of neighbours; a *grid* takes every (height / side)-th row and (width / side)-th column, so that
its positions spread over the whole map. Linear in the positions. Knows nothing of images or networks.

Source: Park et al., "Efficient Attention-Sharing Information Distillation Transformer for Lightweight Single Image
Super-Resolution", AAAI 2025, arXiv 2501.15774.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nlsr.attention.affinity import (
    Affinity,
    Draws,
    Keep,
    Operator,
    check_size,
    map_size,
    matching_dtype,
    to_map,
    to_tokens,
)
from nlsr.attention.dense import DenseAffinity
from nlsr.errors import ShapeError

Layout = Literal["window", "grid"]

# Positions of a map, and the groups (x, y) with their slots (i, j).
PATTERNS: dict[Layout, tuple[str, str]] = {
    "window": ("b (x i) (y j) c", "b (x y) (i j) c"),
    "grid": ("b (i x) (j y) c", "b (x y) (i j) c"),
}


@dataclass(frozen=True)
class Grouping:
    """Which positions of a height x width map form a group of side * side slots.

    A map that is not a multiple of the side is continued at the bottom and at the right by positions that do not
    exist: their slots hold zeros, and no slot may draw on them.
    """

    layout: Layout
    height: int
    width: int
    side: int

    @property
    def rows(self) -> int:
        """Groups from top to bottom."""
        return -(-self.height // self.side)

    @property
    def columns(self) -> int:
        """Groups from left to right."""
        return -(-self.width // self.side)

    def group(self, tokens: Float[Tensor, "b l c"]) -> Float[Tensor, "b g n c"]:
        """Groups in row-major order, slots in row-major order within them."""
        map = tokens.unflatten(1, (self.height, self.width))
        if self._is_padded():
            below, right = self.rows * self.side - self.height, self.columns * self.side - self.width
            map = F.pad(map, (0, 0, 0, right, 0, below))
        positions, groups = PATTERNS[self.layout]
        return rearrange(map, f"{positions} -> {groups}", i=self.side, j=self.side)

    def restore(self, grouped: Float[Tensor, "b g n c"]) -> Float[Tensor, "b l c"]:
        """The inverse of `group`."""
        positions, groups = PATTERNS[self.layout]
        map = rearrange(grouped, f"{groups} -> {positions}", x=self.rows, i=self.side, j=self.side)
        return map[:, : self.height, : self.width].flatten(1, 2)

    def positions(self) -> Int[Tensor, "g n"]:
        """The position in each slot, counted from 1 in row-major order; 0 where there is none."""
        positions = torch.arange(1, self.height * self.width + 1, dtype=torch.float64)
        return self.group(positions[None, :, None])[0, :, :, 0].long()

    def missing(self) -> Bool[Tensor, "g 1 n"] | None:
        """The slots that hold no position; None if all do."""
        return self.positions()[:, None] == 0 if self._is_padded() else None

    def _is_padded(self) -> bool:
        return bool(self.height % self.side or self.width % self.side)


class GroupedAffinity(Affinity):
    """Each position draws on the positions of its own group.

    `weights` (b, g, n, n) remain readable: of image b, how slot i of group g draws on slot j.
    """

    def __init__(self, weights: Float[Tensor, "b g n n"], grouping: Grouping) -> None:
        super().__init__(grouping.height * grouping.width, size=(grouping.height, grouping.width))
        self._weights, self.grouping = weights, grouping

    @property
    def weights(self) -> Float[Tensor, "b g n n"]:
        return self._weights

    def aggregate(self, values: Float[Tensor, "b keys c"]) -> Float[Tensor, "b queries c"]:
        return self.grouping.restore(self._draw(self.grouping.group(values)))

    def rows(self, queries: Int[Tensor, " q"]) -> Float[Tensor, "b q keys"]:
        weights, positions = self.weights, self.grouping.positions()
        slots = positions.flatten().argsort(stable=True)[-self.num_keys :]  # of each position
        groups, slots = (part.to(weights.device) for part in (slots // positions.shape[1], slots % positions.shape[1]))
        queries, positions = queries.to(weights.device), positions.to(weights.device)
        drawn = weights[:, groups[queries], slots[queries]]
        keys = positions[groups[queries]].expand_as(drawn)
        return drawn.new_zeros(*drawn.shape[:2], 1 + self.num_keys).scatter(2, keys, drawn)[..., 1:]

    @property
    def reach_is(self) -> str:  # type: ignore[override]
        return f"in its {self.grouping.layout}"

    def reach(self, queries: Int[Tensor, " q"]) -> Bool[Tensor, " keys"]:
        groups = self.groups()[0, 0]
        return torch.isin(groups, groups[queries])

    def groups(self) -> Int[Tensor, "1 1 keys"]:
        """The same for all images."""
        positions = self.grouping.positions()
        numbers = torch.arange(len(positions))[:, None].expand_as(positions)
        groups = numbers.new_zeros(1 + self.num_keys).scatter_(0, positions.flatten(), numbers.flatten())
        return groups[None, None, 1:]

    def _draw(self, values: Float[Tensor, "b g n c"]) -> Float[Tensor, "b g n c"]:
        return self._weights.to(values.dtype) @ values


class RecomputedGroupedAffinity(GroupedAffinity):
    """The same, made of queries and keys whenever it is used, in backward again."""

    def __init__(
        self,
        query: Float[Tensor, "b g n d"],
        key: Float[Tensor, "b g n d"],
        bias: Float[Tensor, "n n"],
        grouping: Grouping,
    ) -> None:
        """
        Args:
            query, key, bias: softmax(query . key + bias) are the weights.
        """
        Affinity.__init__(self, grouping.height * grouping.width, size=(grouping.height, grouping.width))
        self._made_of, self.grouping = (query, key, bias), grouping

    @property
    def weights(self) -> Float[Tensor, "b g n n"]:
        query, key, bias = self._made_of
        return _weigh(query, key, bias, self.grouping.missing())

    def _draw(self, values: Float[Tensor, "b g n c"]) -> Float[Tensor, "b g n c"]:
        inputs = (*self._made_of, self.grouping.missing(), values)
        if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in inputs):
            return checkpoint(_attend, *inputs, use_reentrant=False, preserve_rng_state=False)
        return _attend(*inputs)


class SharedWindow(Operator):
    """Match the positions of each window: neighbours.

    softmax(channels^-1/2 query . key + bias) over the group, with query and key linear in the features and a learned
    bias for each offset between two slots.
    """

    layout: Layout = "window"
    groups_are = "windows"

    def __init__(self, channels: int, *, side: int = 8) -> None:
        """
        Args:
            channels: number of channels of the features.
            side: a group has side * side slots; 8 as published.
        Raises: ShapeError if the side is less than 1.
        """
        super().__init__()
        if side < 1:
            raise ShapeError(f"expected groups with a side of at least 1, got {side}")
        self.side = side
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.offset_bias = nn.Parameter(torch.zeros((2 * side - 1) ** 2, 1))

    def match(
        self, features: Float[Tensor, "b c h w"], *, draws: Draws | None = None, keep: Keep = "stored"
    ) -> GroupedAffinity:
        """Draws nothing. A map that is not a multiple of the side has smaller groups at its lower and right end."""
        tokens = to_tokens(features)
        return self.match_embedded(self.query(tokens), self.key(tokens), *features.shape[2:], keep=keep)

    def floats_per_position(self, channels: int) -> int:
        return 2 * self.query.out_features + self.side**2 + channels

    def exact(self, features: Float[Tensor, "b c h w"]) -> DenseAffinity:
        """Without the bias, which belongs to slots."""
        query, key = self.query(to_tokens(features)), self.key(to_tokens(features))
        return DenseAffinity(query * query.shape[2] ** -0.5, key, size=map_size(features))

    def match_embedded(
        self, query: Float[Tensor, "b l c"], key: Float[Tensor, "b l c"], height: int, width: int, *, keep: Keep
    ) -> GroupedAffinity:
        """As `match`, for whoever has queries and keys of a height x width map already."""
        grouping = Grouping(self.layout, height, width, self.side)
        matching = matching_dtype(query.dtype)
        scaled = grouping.group(query.to(matching) * query.shape[2] ** -0.5)
        made_of = scaled, grouping.group(key.to(matching)), self._bias().to(matching)
        if keep == "recomputed":
            return RecomputedGroupedAffinity(*made_of, grouping)
        return GroupedAffinity(_weigh(*made_of, grouping.missing()).to(query.dtype), grouping)

    def _bias(self) -> Float[Tensor, "n n"]:
        """For each pair of slots (i, j) and (k, l), the learned entry for the offset (i - k, j - l)."""
        side = self.side
        table = self.offset_bias.view(2 * side - 1, 2 * side - 1)
        return table.unfold(0, side, 1).unfold(1, side, 1).flip(2, 3).reshape(side**2, side**2)


class SharedGrid(SharedWindow):
    """Match the positions of each grid: spread over the map."""

    layout: Layout = "grid"
    groups_are = "grids"


class SharedWindowAttention(nn.Module):
    """One residual block of window or grid attention: matches, if it owns an operator, or reuses an affinity.

    `features + project(aggregate(values(norm(features))))`; what is matched is norm(features) too. All three are
    position-wise, `norm` over the channels.
    """

    def __init__(self, channels: int, operator: SharedWindow | None = None) -> None:
        """
        Args:
            channels: number of channels of the features, in and out.
            operator: matches the features; None for a block that only reuses.
        """
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.operator = operator
        self.values = nn.Linear(channels, channels, bias=False)
        self.project = nn.Linear(channels, channels, bias=False)

    def forward(
        self, features: Float[Tensor, "b c h w"], affinity: Affinity | None = None, *, keep: Keep = "stored"
    ) -> tuple[Float[Tensor, "b c h w"], Affinity]:
        """Returns the refined features and the affinity that was used, for another block.

        Raises: ShapeError if the block owns no operator and gets no affinity, or one of another size.
        """
        height, width = features.shape[2:]
        tokens = self.norm(to_tokens(features))
        if affinity is None:
            affinity, values = self._match(tokens, height, width, keep)
        else:
            check_size(affinity, height, width)
            values = self.values(tokens)
        drawn = self.project(affinity.aggregate(values))
        return features + to_map(drawn, height, width), affinity

    def _match(self, tokens: Tensor, height: int, width: int, keep: Keep) -> tuple[Affinity, Tensor]:
        if self.operator is None:
            raise ShapeError("this block owns no operator: expected an affinity to reuse, got none")
        # One product for all three, as published: at few channels three products round differently.
        weights = self.operator.query.weight, self.operator.key.weight, self.values.weight
        query, key, values = F.linear(tokens, torch.cat(weights)).chunk(3, dim=-1)
        return self.operator.match_embedded(query, key, height, width, keep=keep), values


def _attend(query: Tensor, key: Tensor, bias: Tensor, missing: Tensor | None, values: Tensor) -> Tensor:
    return _weigh(query, key, bias, missing).to(values.dtype) @ values


def _weigh(query: Tensor, key: Tensor, bias: Tensor, missing: Tensor | None) -> Float[Tensor, "b g n n"]:
    with torch.autocast(query.device.type, enabled=False):
        scores = query @ key.transpose(2, 3) + bias
        if missing is not None:
            scores = scores.masked_fill(missing.to(scores.device), -torch.inf)
        return F.softmax(scores, dim=-1)
