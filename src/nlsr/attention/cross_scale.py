"""Cross-scale attention (CS-NL): small patches are matched with patches of the map at a smaller scale, and the larger
patches behind the matches are pasted at the higher resolution.

No patch is ever cut out. The product of two 3x3 patches is a sum of pixel-wise products along the diagonal of query
and key position, and pasting overlapping patches sums the weights in the same way. Queries are taken in blocks, and
backward computes each block again, so that memory is linear in the positions.

Source: Mei et al., "Image Super-Resolution with Cross-Scale Non-Local Attention and Exhaustive Self-Exemplars Mining",
CVPR 2020, arXiv 2006.01424.
"""

from abc import abstractmethod
from math import isqrt
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.attention.affinity import Affinity, Draws, Keep, Operator, matching_dtype
from nlsr.attention.dense import embedding_width
from nlsr.attention.streamed import Block, budget, in_blocks
from nlsr.errors import ShapeError

BLOCK_BYTES = 16 * 2**20
"""Memory of the pixel-wise products of one block. A block needs its neighbours' products too: half of this took 1.6
times the time; twice of it saved a seventh."""
SMALLEST_SIDE = 8
"""Smallest side of a block of queries, used even where `BLOCK_BYTES` allows less because there are many keys: a smaller
block would consist mostly of what it shares with its neighbours."""
HALO = 2
"""Queries on each side of a block that its rows are made from."""
NORM_FLOOR = 1e-4
"""Least norm that a patch of keys is divided by."""
PUBLISHED_GAIN = 1 / 6
"""Factor of what is pasted, the same whether 9, 6 or 4 patches overlap."""

Area = tuple[slice, slice]
"""Rows and columns of a map."""


class PatchwiseAffinity(Affinity):
    """An affinity from one map to another whose matrix is made in blocks of queries, as it is used."""

    def __init__(self, query: Float[Tensor, "b h w d"], key: Float[Tensor, "b d u v"], factor: Tensor) -> None:
        """
        Args:
            factor: what the scores of each key are multiplied by, (b, 1, u, v).
        """
        height, width = query.shape[1:3]
        super().__init__(height * width, key[0, 0].numel(), size=(height, width))
        self.query, self.key, self.factor = query, key, factor
        self.cell = width // key.shape[-1]

    @abstractmethod
    def weights(self, area: Area, query: Tensor, key: Tensor, factor: Tensor) -> Float[Tensor, "b y x u v"]:
        """The rows of an area of queries."""

    def aggregate(self, values: Float[Tensor, "b keys c"]) -> Float[Tensor, "b queries c"]:
        drawn = in_blocks(
            self._attend,
            self._blocks(values.shape[0]),
            (values.shape[0], self.height, self.width, values.shape[2]),
            *(self.query, self.key, self.factor, values),
        )
        return drawn.flatten(1, 2)

    def rows(self, queries: Int[Tensor, " q"]) -> Float[Tensor, "b q keys"]:
        rows = []
        for query in queries.tolist():
            y, x = divmod(query, self.width)
            area = (slice(y, y + 1), slice(x, x + 1))
            rows.append(self.weights(area, self.query, self.key, self.factor).flatten(1))
        return torch.stack(rows, dim=1)

    def _blocks(self, batch: int) -> list[Block]:
        """Several whole images, or a square of one."""
        bytes_per_query = self.query.element_size() * self.num_keys
        together = budget(BLOCK_BYTES) // (bytes_per_query * self.num_queries)
        side = max(SMALLEST_SIDE, isqrt(budget(BLOCK_BYTES) // bytes_per_query) - 2 * HALO)
        if together:
            side = max(self.height, self.width)
        return [
            (images, rows, columns)
            for images in _cut(batch, max(1, together))
            for rows in _cut(self.height, side)
            for columns in _cut(self.width, side)
        ]

    def _attend(self, block: Block, query: Tensor, key: Tensor, factor: Tensor, values: Tensor) -> Tensor:
        weights = self.weights((block[1], block[2]), query, key, factor).to(values.dtype)
        drawn = weights.flatten(3).flatten(1, 2) @ values
        return drawn.unflatten(1, weights.shape[1:3])


class PatchAffinity(PatchwiseAffinity):
    """softmax over keys of: softmax_scale * (3x3 patch at the query) . (3x3 patch at the key) / |3x3 patch at the key|.

    Both maps are surrounded by zeros.
    """

    def __init__(
        self, query: Float[Tensor, "b d h w"], key: Float[Tensor, "b d u v"], *, softmax_scale: float = 10.0
    ) -> None:
        dtype = matching_dtype(query.dtype)
        query, key = rearrange(query.to(dtype), "b d h w -> b h w d").contiguous(), key.to(dtype)
        squares = F.avg_pool2d(key.square().sum(1, keepdim=True), 3, stride=1, padding=1, divisor_override=1)
        # Clamped before the root, whose gradient at zero is infinite.
        super().__init__(query, key, softmax_scale / squares.clamp_min(NORM_FLOOR**2).sqrt())

    def weights(self, area: Area, query: Tensor, key: Tensor, factor: Tensor) -> Float[Tensor, "b y x u v"]:
        around = _with_neighbours(area, self.height, self.width)
        scores = shift_sum(_products(query[:, around[0], around[1]], key), around, area) * factor[:, None]
        return scores.flatten(3).softmax(-1).view_as(scores)


class CrossScaleAffinity(PatchwiseAffinity):
    """How strongly each cell of the enlarged map draws on each cell of the map; a cell is scale * scale pixels.

    A cell receives from the patches that it and its eight neighbours paste, so its row is a sum of nine rows of the
    matching, each shifted, times 1/6: it sums to 1.5 inside, 1 at edges and 2/3 in corners, less what patches reach
    beyond the map.
    """

    def __init__(self, matching: PatchAffinity, *, overlap_average: bool = False) -> None:
        """
        Args:
            matching: the affinity between patches.
            overlap_average: divide by the number of patches that overlap in a cell (9, 6 or 4) instead of by 6.
        """
        super().__init__(matching.query, matching.key, matching.factor)
        self.matching = matching
        self.gain = _gain(matching, overlap_average)

    def weights(self, area: Area, query: Tensor, key: Tensor, factor: Tensor) -> Float[Tensor, "b y x u v"]:
        """Without the gain, which is cheaper to apply to what is drawn."""
        around = _with_neighbours(area, self.height, self.width)
        return shift_sum(self.matching.weights(around, query, key, factor), around, area)

    def aggregate(self, values: Float[Tensor, "b keys c"]) -> Float[Tensor, "b queries c"]:
        return super().aggregate(values) * self.gain[:, None].to(values.dtype)

    def rows(self, queries: Int[Tensor, " q"]) -> Float[Tensor, "b q keys"]:
        return super().rows(queries) * self.gain[queries.to(self.gain.device), None]


class CrossScale(Operator):
    """Matches every position of a feature map with the positions of the map made smaller.

    Two 1x1 convolutions with a one-slope PReLU each embed the map and its smaller copy. Keys are normalised, queries
    are not.
    """

    network_settings = ("reduction", "softmax_scale", "overlap_average")
    no_graph = (
        "sums patches along diagonals in place, block by block (Tensor.add_); at once they are quadratic in memory"
    )

    def __init__(
        self,
        channels: int,
        scale: int = 2,
        *,
        reduction: int = 2,
        softmax_scale: float = 10.0,
        overlap_average: bool = False,
    ) -> None:
        """
        Args:
            channels: number of channels of the features.
            scale: 2 or 3, how much smaller the map of keys is.
            reduction: queries and keys have channels / reduction entries; must divide.
            softmax_scale: factor of the scores before the softmax.
            overlap_average: see `CrossScaleAffinity`.
        Raises: ShapeError if sizes do not fit.
        """
        super().__init__()
        if scale not in (2, 3):
            raise ShapeError(f"expected a scale of 2 or 3 for cross-scale attention, got {scale}")
        width = embedding_width(channels, reduction)
        self.query = nn.Sequential(nn.Conv2d(channels, width, 1), nn.PReLU())
        self.key = nn.Sequential(nn.Conv2d(channels, width, 1), nn.PReLU())
        self.scale = scale
        self.softmax_scale, self.overlap_average = softmax_scale, overlap_average

    def match(
        self, features: Float[Tensor, "b c h w"], *, draws: Draws | None = None, keep: Keep = "recomputed"
    ) -> CrossScaleAffinity:
        """The affinity between the cells of the enlarged map and those of the map; ``affinity.matching`` is that of
        positions and smaller copy.

        A map whose sides are not multiples of the scale is first padded, see `pad_to_multiple`. Whatever `keep` says,
        the weights are recomputed: storing them would be quadratic in memory.
        """
        features = pad_to_multiple(features, self.scale)
        key = self.key(shrink(features, self.scale))
        matching = PatchAffinity(self.query(features), key, softmax_scale=self.softmax_scale)
        return CrossScaleAffinity(matching, overlap_average=self.overlap_average)


class CrossScaleAttention(nn.Module):
    """Cross-scale attention as one block that enlarges: (b, c, h, w) to (b, c, scale * h, scale * w).

    Values are embedded by a 1x1 convolution and PReLU. Takes every size from 1x1 up.
    """

    def __init__(self, channels: int, operator: CrossScale) -> None:
        """
        Args:
            channels: of the features, in and out.
            operator: matches the features.
        """
        super().__init__()
        self.operator = operator
        self.values = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.PReLU())

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c sh sw"]:
        return self.attend(features)[0]

    def attend(self, features: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c sh sw"], CrossScaleAffinity]:
        """The enlarged features, and the affinity of the padded map that was used."""
        scale = self.operator.scale
        height, width = (scale * side for side in features.shape[2:])
        features = pad_to_multiple(features, scale)
        affinity = self.operator.match(features)
        drawn = affinity.aggregate(to_cells(self.values(features), scale))
        return from_cells(drawn, affinity.height, affinity.width, scale)[..., :height, :width], affinity


def pad_to_multiple(features: Float[Tensor, "b c h w"], scale: int) -> Float[Tensor, "b c h2 w2"]:
    """Repeat the last row and column until both sides are multiples of the scale."""
    height, width = features.shape[2:]
    padding = (0, -width % scale, 0, -height % scale)
    return F.pad(features, padding, mode="replicate") if any(padding) else features


def shrink(features: Float[Tensor, "b c h w"], scale: int) -> Float[Tensor, "b c u v"]:
    """Bilinear, pixel centres aligned, no antialiasing: the mean of 2x2 pixels, or the centre of 3x3."""
    return F.avg_pool2d(features, 2) if scale == 2 else features[:, :, 1::3, 1::3]


def to_cells(features: Float[Tensor, "b c h w"], scale: int) -> Float[Tensor, "b l cells"]:
    """Cells of scale * scale pixels, in row-major order, each with all its channels."""
    return rearrange(features, "b c (u s) (v t) -> b (u v) (s t c)", s=scale, t=scale)


def from_cells(cells: Float[Tensor, "b l cells"], height: int, width: int, scale: int) -> Float[Tensor, "b c h w"]:
    """The inverse of `to_cells`, of a map of height * width cells."""
    return rearrange(cells, "b (u v) (s t c) -> b c (u s) (v t)", u=height, v=width, s=scale, t=scale)


def shift_sum(map: Float[Tensor, "b y x u v"], covered: Area, wanted: Area) -> Float[Tensor, "b y2 x2 u v"]:
    """Sum, over the nine offsets e, of the entries at (query + e, key + e), zero beyond the keys and what is covered.

    Args:
        covered: the queries (y, x) of the map.
        wanted: the queries of the result.
    """
    return _ShiftSum.apply(map, covered, wanted)


class _ShiftSum(torch.autograd.Function):
    """In its adjoint, what is covered and what is wanted change places."""

    @staticmethod
    def forward(ctx: Any, map: Tensor, covered: Area, wanted: Area) -> Tensor:
        ctx.covered, ctx.wanted = covered, wanted
        return _diagonal_sum(_diagonal_sum(map, 2, covered[1], wanted[1]), 1, covered[0], wanted[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return shift_sum(grad, ctx.wanted, ctx.covered), None, None


def _diagonal_sum(map: Tensor, axis: int, covered: slice, wanted: slice) -> Tensor:
    """The sum of three entries along one axis of the queries and, at once, the same axis of the keys."""
    num_keys = map.shape[axis + 2]
    padding = [0, 0] * (map.ndim - 1 - axis) + [covered.start - wanted.start, wanted.stop - covered.stop]
    total = F.pad(map, padding)  # a negative padding crops
    for offset in (-1, 1):
        first, last = max(wanted.start, covered.start - offset), min(wanted.stop, covered.stop - offset)
        if first < last and num_keys > 1:
            source = map.narrow(axis, first + offset - covered.start, last - first)
            target = total.narrow(axis, first - wanted.start, last - first)
            key, target_key = max(0, offset), max(0, -offset)
            target.narrow(axis + 2, target_key, num_keys - 1).add_(source.narrow(axis + 2, key, num_keys - 1))
    return total


def _products(query: Float[Tensor, "b y x d"], key: Float[Tensor, "b d u v"]) -> Float[Tensor, "b y x u v"]:
    with torch.autocast(query.device.type, enabled=False):
        return (query.flatten(1, 2) @ key.flatten(2)).view(*query.shape[:3], *key.shape[2:])


def _with_neighbours(area: Area, height: int, width: int) -> Area:
    """One more row and column on each side, as far as the map reaches."""
    rows, columns = area
    return (
        slice(max(0, rows.start - 1), min(height, rows.stop + 1)),
        slice(max(0, columns.start - 1), min(width, columns.stop + 1)),
    )


def _cut(length: int, size: int) -> list[slice]:
    return [slice(start, min(length, start + size)) for start in range(0, length, size)]


def _gain(matching: PatchAffinity, overlap_average: bool) -> Float[Tensor, " queries"]:
    if not overlap_average:
        return matching.factor.new_full((matching.num_queries,), PUBLISHED_GAIN)
    ones = matching.factor.new_ones(1, 1, matching.height, matching.width)
    return F.avg_pool2d(ones, 3, stride=1, padding=1, divisor_override=1).reciprocal().flatten()
