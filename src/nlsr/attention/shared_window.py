"""Window and grid attention whose affinity is shared between blocks (ASID): groups of side * side positions, each of
which attends to itself.

A *window* is a square of neighbours; a *grid* takes every (height / side)-th row and (width / side)-th column, so that
its positions spread over the whole map. Linear in the positions. Knows nothing of images or networks.

Source: Park et al., "Efficient Attention-Sharing Information Distillation Transformer for Lightweight Single Image
Super-Resolution", AAAI 2025, arXiv 2501.15774.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nlsr.attention import slots
from nlsr.attention.affinity import Affinity, Keep, check_size, map_size, to_map, to_tokens
from nlsr.attention.grouped import Layout, joint_linear
from nlsr.attention.shifted_window import ShiftedWindow, Strip, Windows
from nlsr.attention.streamed import in_graph
from nlsr.errors import ShapeError


class Grids(Windows):
    """Grids of side * side positions, of a row or column less where the map is not a multiple of the side."""

    reach_is = "in its grid"
    pattern = "b (i x) (j y) c"

    def __init__(self, height: int, width: int, side: int) -> None:
        self.height, self.width = height, width
        (self.down, rows), (self.across, columns) = (_grids(length, side) for length in (height, width))
        self._order = (rows[:, None] * width + columns).flatten() if len(self.shapes) > 1 else None

    def queries(self, tokens: Float[Tensor, "b l c"]) -> list[Float[Tensor, "_ _ c"]]:
        order = self._order
        return super().queries(tokens if order is None else tokens.index_select(1, order.to(tokens.device)))

    def restore(self, pieces: list[Float[Tensor, "_ _ c"]]) -> Float[Tensor, "b l c"]:
        restored, order = super().restore(pieces), self._order
        return restored if order is None else restored.index_select(1, order.argsort().to(restored.device))


def _grids(length: int, side: int) -> tuple[list[Strip], Int[Tensor, " length"]]:
    """The groups along a side of the map, the longer ones first, and the order of its coordinates for that."""
    step = -(-length // side)
    size, longer = divmod(length, step)
    strips = Strip(0, longer, size + 1), Strip(longer * (size + 1), step - longer, size)
    order = (torch.arange(length) % step >= longer).int().argsort(stable=True)
    return [strip for strip in strips if strip.count], order


class SharedWindow(ShiftedWindow):
    """Match the positions of each window: neighbours.

    softmax(channels^-1/2 query . key + bias) over the group, with query and key linear in the features and a learned
    bias for each offset between two slots.
    """

    def __init__(self, channels: int, *, side: int = 8) -> None:
        """
        Args:
            channels: number of channels of the features.
            side: a group has side * side slots; 8 as published.
        Raises: ShapeError if the side is less than 1.
        """
        super().__init__(channels, window_size=side, embeds=False)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        nn.init.zeros_(self.offset_bias)


class SharedGrid(SharedWindow):
    """Match the positions of each grid: spread over the map."""

    groups_are = "grids"

    def layout(self, height: int, width: int) -> Layout:
        if in_graph():
            return slots.grids(height, width, self.window_size)
        return Grids(height, width, self.window_size)


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
        size = map_size(features)
        tokens = self.norm(to_tokens(features))
        if affinity is None:
            affinity, values = self._match(tokens, *size, keep)
        else:
            check_size(affinity, *size)
            values = self.values(tokens)
        return features + to_map(self.project(affinity.aggregate(values)), *size), affinity

    def _match(self, tokens: Tensor, height: int, width: int, keep: Keep) -> tuple[Affinity, Tensor]:
        if self.operator is None:
            raise ShapeError("this block owns no operator: expected an affinity to reuse, got none")
        # One product for all three, as published: at few channels three products round differently.
        query, key, values = joint_linear(tokens, self.operator.query, self.operator.key, self.values)
        return self.operator.match_embedded(query, key, height, width, keep=keep), values
