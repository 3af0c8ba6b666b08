"""Windows that overlap by two positions, each of which attends to itself; what they give a position is averaged.

Linear in the positions. Knows nothing of images or networks.

Source: the local attention (LRSA) of CATANet, CVPR 2025, arXiv 2503.06896.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nlsr.attention import slots
from nlsr.attention.affinity import Draws, Keep, map_size, to_map, to_tokens
from nlsr.attention.chunked import pick
from nlsr.attention.grouped import GroupAffinity, Layout, Places, grouped_floats, joint_linear, weights_in_graph
from nlsr.attention.heads import HeadsOperator
from nlsr.attention.streamed import in_graph
from nlsr.errors import ShapeError

OVERLAP = 2
"""Positions that a window shares with the next along a side; the last window of a side may share more."""

Average = Literal["coverage", "published"]
"""What is divided by: the number of windows that cover a position, or, as published, 4 along a side where these are 3.
As published, a side shorter than a window but longer than half a window has a smaller one, of its last rows alone. Both
make the sum of the shares less than one; benchmark images have no such sides."""


@dataclass(frozen=True)
class Side:
    """The windows along one side of a map, and in which of them a coordinate is: its covers, the first window first."""

    starts: Int[Tensor, " w"]
    size: int
    covered: tuple[Int[Tensor, " _"], ...]
    """The coordinates that have a first, a second ... cover."""
    slots: tuple[Int[Tensor, " _"], ...]
    """Which slot of all windows in a row that is."""
    share: Float[Tensor, " side"]
    """What each coordinate takes of each of its covers."""

    @classmethod
    def cut(cls, length: int, window_size: int, average: Average) -> "Side":
        size = min(window_size, length)
        starts = torch.arange(0, max(length - OVERLAP, 1), max(window_size - OVERLAP, 1)).clamp(max=length - size)
        if average == "published" and window_size / 2 < length < window_size:
            size = window_size - length
            starts = torch.tensor([length - size])
        slots = (starts[:, None] + torch.arange(size)).flatten()
        order = slots.sort(stable=True).indices
        count = torch.bincount(slots, minlength=length)
        first = count.cumsum(0) - count
        covered = tuple((count > rank).nonzero().flatten() for rank in range(int(count.max())))
        divisor = torch.where(count == 3, 4, count) if average == "published" else count
        return cls(
            starts,
            size,
            covered,
            tuple(order[first[coordinates] + rank] for rank, coordinates in enumerate(covered)),
            1 / divisor.clamp(min=1).double() * (count > 0),
        )

    @property
    def coordinates(self) -> Int[Tensor, "w p"]:
        return self.starts[:, None] + torch.arange(self.size)


class OverlappingWindows(Layout):
    """Windows of window_size x window_size positions, or of the whole side where the map has less."""

    reach_is = "in its windows"

    def __init__(self, height: int, width: int, window_size: int, *, average: Average = "coverage") -> None:
        self.height, self.width = height, width
        self.down, self.across = (Side.cut(length, window_size, average) for length in (height, width))
        rows, columns = self.down.coordinates, self.across.coordinates
        self.positions = (rows[:, None, :, None] * width + columns[None, :, None]).flatten(2).flatten(0, 1)

    def queries(self, tokens: Float[Tensor, "b l c"]) -> list[Float[Tensor, "_ _ c"]]:
        positions = self.positions.to(tokens.device)
        picked = pick(tokens, positions.flatten().expand(len(tokens), -1))
        return [picked.view(-1, positions.shape[1], tokens.shape[2])]

    def restore(self, pieces: list[Float[Tensor, "_ _ c"]]) -> Float[Tensor, "b l c"]:
        """The first covers of all positions, then the second of those that have one, and so on: in each of these sums a
        position appears once, so that the order of additions is the same on every device."""
        (piece,) = pieces
        slots = piece.view(-1, self.positions.numel(), piece.shape[2])
        restored = slots.new_zeros(len(slots), self.height * self.width, piece.shape[2])
        for positions, where, share in self._covers():
            drawn = pick(slots, where.to(slots.device).expand(len(slots), -1)) * share.to(slots)[:, None]
            restored = restored.index_add(1, positions.to(slots.device), drawn)
        return restored

    def places(self) -> list[Places]:
        rows, columns = self.down.share[self.down.coordinates], self.across.share[self.across.coordinates]
        shares = (rows[:, None, :, None] * columns[None, :, None]).flatten(2).flatten(0, 1)
        return [Places(self.positions[None], self.positions[None], shares[None])]

    def coverage(self) -> Float[Tensor, "h w"]:
        """The sum of the shares of each position: one, but for what `Average` says of the published ones."""
        sums = []
        for side in (self.down, self.across):
            covers = torch.bincount(side.coordinates.flatten(), minlength=len(side.share))
            sums.append(side.share * covers)
        return sums[0][:, None] * sums[1]

    def _covers(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Positions, the slots they take from, and their shares."""
        covers, (down, across) = [], (self.down, self.across)
        num_across = len(across.starts)
        for rows, row_slots in zip(down.covered, down.slots, strict=True):
            window_row, row = row_slots // down.size, row_slots % down.size
            for columns, column_slots in zip(across.covered, across.slots, strict=True):
                window, column = (
                    window_row[:, None] * num_across + column_slots // across.size,
                    column_slots % across.size,
                )
                slots = (window * down.size + row[:, None]) * across.size + column
                positions = rows[:, None] * self.width + columns
                share = down.share[rows][:, None] * across.share[columns]
                covers.append((positions.flatten(), slots.flatten(), share.flatten()))
        return covers


class OverlappingWindow(HeadsOperator):
    """Match the positions of each of the overlapping windows: softmax(d^(-1/2) query . key), head by head."""

    def __init__(
        self,
        channels: int,
        *,
        width: int | None = None,
        heads: int = 1,
        window_size: int = 16,
        average: Average = "coverage",
    ) -> None:
        """
        Args:
            channels: of the features.
            width: of queries and keys, of all heads; as many as channels by default.
            heads: equal parts of queries, keys and values; must divide.
            window_size: positions along a side of a window.
            average: see `Average`.
        Raises: ShapeError if sizes do not fit each other.
        """
        super().__init__(channels, width=width, heads=heads, bias=False)
        if window_size <= OVERLAP:
            raise ShapeError(f"expected windows of more than {OVERLAP} positions along a side, got {window_size}")
        self.window_size, self.average = window_size, average

    def match(
        self, features: Float[Tensor, "b c h w"], *, draws: Draws | None = None, keep: Keep = "stored"
    ) -> GroupAffinity:
        """Nothing is drawn."""
        tokens = to_tokens(features)
        query = self.query(tokens) * self.score_scale
        return GroupAffinity(self.layout(*map_size(features)), query, self.key(tokens), heads=self.heads, keep=keep)

    def floats_per_position(self, channels: int) -> int:
        covers = (self.window_size / (self.window_size - OVERLAP)) ** 2
        return int(covers * grouped_floats(self.width, channels, self.heads, keys=self.window_size**2))

    def floats_in_graph(self) -> int:
        covers = (self.window_size / (self.window_size - OVERLAP)) ** 2
        return int(covers * weights_in_graph(self.heads, keys=self.window_size**2))

    def layout(self, height: int, width: int) -> OverlappingWindows | slots.Slots:
        if in_graph():
            published = self.average == "published"
            return slots.overlapping_windows(height, width, self.window_size, OVERLAP, published=published)
        return OverlappingWindows(height, width, self.window_size, average=self.average)


class OverlappingWindowAttention(nn.Module):
    """One residual block: in each window `tokens + project(aggregate(values(norm(tokens))))`, then the average.

    What is matched is norm(tokens) too. All projections are position-wise, so that they are made once for each position
    and not once for each window that it is in.
    """

    def __init__(self, channels: int, operator: OverlappingWindow) -> None:
        """
        Args:
            channels: of the features, in and out.
            operator: matches the features.
        """
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.operator = operator
        self.values = nn.Linear(channels, channels, bias=False)
        self.project = nn.Linear(channels, channels, bias=False)

    def forward(
        self, features: Float[Tensor, "b c h w"], *, keep: Keep = "recomputed"
    ) -> tuple[Float[Tensor, "b c h w"], GroupAffinity]:
        tokens, operator = to_tokens(features), self.operator
        size = map_size(features)
        layers = operator.query, operator.key, self.values
        query, key, values = joint_linear(self.norm(tokens), *layers)
        layout = operator.layout(*size)
        affinity = GroupAffinity(layout, query * operator.score_scale, key, heads=operator.heads, keep=keep)
        refined = self.project(affinity.aggregate(values))
        coverage = layout.coverage()
        # As published some sizes have less, though no benchmark image; a graph multiplies at every size.
        if operator.average == "published" and (in_graph() or not bool((coverage == 1).all())):
            tokens = tokens * coverage.flatten().to(tokens)[:, None]
        return to_map(tokens + refined, *size), affinity
