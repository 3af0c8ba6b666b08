"""Windows of neighbours, with heads and a learned bias for each offset: the local attention of ATD and PFT.

Every other layer shifts the windows by half their size. The published ones roll the map for that and mask what does not
belong together; here windows at the border are simply smaller, which is the same without a mask, and any size of map
will do. Linear in the positions. Knows nothing of images or networks.

Source: Liu et al., "Swin Transformer", ICCV 2021, arXiv 2103.14030, as ATD (arXiv 2401.08209) uses it.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from nlsr.attention import slots
from nlsr.attention.affinity import Draws, Keep, map_size, to_tokens
from nlsr.attention.grouped import GroupAffinity, Layout, Places, grouped_floats, weights_in_graph
from nlsr.attention.heads import HeadsOperator
from nlsr.attention.streamed import in_graph
from nlsr.errors import ShapeError


@dataclass(frozen=True)
class Strip:
    """Windows in a row along a side of the map: where they begin, how many they are, and how long."""

    start: int
    count: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.count * self.length


class Windows(Layout):
    """Windows of window_size x window_size positions, smaller ones at the borders. Those of one shape are a piece."""

    reach_is = "in its window"
    pattern = "b (x i) (y j) c"
    """Where slot (i, j) of window (x, y) lies in a strip of rows and columns."""

    def __init__(self, height: int, width: int, window_size: int, *, offset: int = 0) -> None:
        """
        Args:
            offset: rows above, and columns to the left of, the first whole window.
        """
        self.height, self.width = height, width
        self.down, self.across = (_strips(length, window_size, offset) for length in (height, width))

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Height and width of the windows of each piece."""
        return [(rows.length, columns.length) for rows in self.down for columns in self.across]

    def queries(self, tokens: Float[Tensor, "b l c"]) -> list[Float[Tensor, "_ _ c"]]:
        map = tokens.unflatten(1, (self.height, self.width))
        return [
            rearrange(
                map[:, rows.start : rows.end, columns.start : columns.end],
                f"{self.pattern} -> (b x y) (i j) c",
                i=rows.length,
                j=columns.length,
            )
            for rows in self.down
            for columns in self.across
        ]

    def restore(self, pieces: list[Float[Tensor, "_ _ c"]]) -> Float[Tensor, "b l c"]:
        left, bands = iter(pieces), []
        for rows in self.down:
            band = [
                rearrange(
                    next(left),
                    f"(b x y) (i j) c -> {self.pattern}",
                    x=rows.count,
                    y=columns.count,
                    i=rows.length,
                )
                for columns in self.across
            ]
            bands.append(_joined(band, dim=2))
        return _joined(bands, dim=1).flatten(1, 2)

    def places(self) -> list[Places]:
        positions = torch.arange(self.height * self.width, dtype=torch.float64)[None, :, None]
        return [Places(piece, piece) for piece in (each[None, ..., 0].long() for each in self.queries(positions))]

    def groups(self) -> Int[Tensor, "1 1 l"]:
        """The windows, piece by piece."""
        numbers, first = [], 0
        for places in self.places():
            _, count, size = places.queries.shape
            numbers.append(torch.arange(first, first + count, dtype=torch.float64)[:, None, None].expand(-1, size, 1))
            first += count
        return self.restore(numbers)[None, ..., 0].long()


class ShiftedWindow(HeadsOperator):
    """Match the positions of each window: softmax(d^(-1/2) query . key + bias), head by head."""

    groups_are = "windows"

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 1,
        window_size: int = 16,
        shifted: bool = False,
        shared_bias: bool = False,
        embeds: bool = True,
    ) -> None:
        """
        Args:
            channels: of the features, and of queries and keys.
            heads: equal parts of queries, keys and values; must divide.
            window_size: positions along a side of a window.
            shifted: windows begin half a window earlier.
            shared_bias: one bias for all heads.
            embeds: makes queries and keys; False for a network that gives them to `match_embedded`.
        Raises: ShapeError if sizes do not fit each other.
        """
        super().__init__(channels, heads=heads, embeds=embeds)
        if window_size < 1:
            raise ShapeError(f"expected windows of at least 1 position along a side, got {window_size}")
        self.window_size, self.shifted = window_size, shifted
        self.offset_bias = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, 1 if shared_bias else heads))
        nn.init.normal_(self.offset_bias, std=0.02)

    def match(
        self, features: Float[Tensor, "b c h w"], *, draws: Draws | None = None, keep: Keep = "stored"
    ) -> GroupAffinity:
        """Nothing is drawn."""
        tokens = to_tokens(features)
        return self.match_embedded(self.query(tokens), self.key(tokens), *map_size(features), keep=keep)

    def match_embedded(
        self, query: Float[Tensor, "b l c"], key: Float[Tensor, "b l c"], height: int, width: int, *, keep: Keep
    ) -> GroupAffinity:
        """As `match`, for whoever has queries, not yet scaled, and keys of a height x width map already."""
        layout = self.layout(height, width)
        return GroupAffinity(
            layout, query * self.score_scale, key, heads=self.heads, biases=self.biases(layout), keep=keep
        )

    def layout(self, height: int, width: int) -> Layout:
        kind = slots.windows if in_graph() else Windows
        return kind(height, width, self.window_size, offset=self.window_size // 2 if self.shifted else 0)

    def biases(self, layout: Layout) -> list[Float[Tensor, "_ _ _"]]:
        """For each pair of slots (i, j) and (k, l) of a window, the entry for the offset (i - k, j - l)."""
        side, table = self.window_size, self.offset_bias.t()
        shapes = layout.shapes if isinstance(layout, Windows) else [(side, side)]
        place = torch.arange(side, device=table.device)
        apart = place[:, None] - place + side - 1
        biases = []
        for i, j in shapes:
            entry = (2 * side - 1) * apart[:i, None, :i, None] + apart[None, :j, None, :j]
            biases.append(table.index_select(1, entry.flatten()).view(-1, i * j, i * j))
        return biases

    def floats_per_position(self, channels: int) -> int:
        return grouped_floats(self.width, channels, self.heads, keys=self.window_size**2)

    def floats_in_graph(self) -> int:
        return weights_in_graph(self.heads, keys=self.window_size**2)


def _joined(parts: list[Tensor], *, dim: int) -> Tensor:
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0]


def _strips(length: int, window_size: int, offset: int) -> list[Strip]:
    first = min(offset, length)
    count, rest = divmod(length - first, window_size)
    strips = Strip(0, 1, first), Strip(first, count, window_size), Strip(length - rest, 1, rest)
    return [strip for strip in strips if strip.end > strip.start]
