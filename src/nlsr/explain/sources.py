"""What a pixel draws on: its row of an affinity laid over the image, and the pattern that decided who is in the row."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.attention import (
    Affinity,
    ChunkedAffinity,
    GlobalLearnable,
    GroupedAffinity,
    LearnableSparsePattern,
    NonLocalSparse,
    Operator,
    SharedAttention,
)
from nlsr.attention.cross_scale import PatchwiseAffinity
from nlsr.attention.leverage.affinities import HeadsAffinity, SetAffinity
from nlsr.errors import UsageError
from nlsr.networks import Network

GROUPS: dict[type[Operator], str] = {
    LearnableSparsePattern: "k-means clusters",
    NonLocalSparse: "hash buckets",
    GlobalLearnable: "super-bit buckets",
}
"""What the groups are called by which an operator sorts positions."""


@dataclass(frozen=True, eq=False)
class Sources:
    """What one pixel draws on by one affinity of a network."""

    operator: str
    """The name of the class that matched."""
    index: int
    """Index of the affinity among those of the network."""
    num_affinities: int
    heat: Float[Tensor, "h w"]
    """How much is drawn from each pixel. Sums to the row, which need not be one, less what the network draws from the
    padding around the image."""
    strongest: Int[Tensor, "n 2"]
    """x and y of the pixels drawn on most, the strongest first; of equal ones the first in row-major order."""
    reach: Bool[Tensor, "h w"] | None
    """The pixels that can be drawn on: those that share a window, a group or the key set with the pixel or are in it;
    None if all can."""
    reach_is: str
    """What the reach is called."""
    groups: Int[Tensor, "r h w"] | None
    """The cluster, bucket, window or grid of each pixel, in each round; None if there are no groups."""
    groups_are: str
    """What the groups are called."""


@torch.no_grad()
def sources(
    network: Network, image: Float[Tensor, "1 3 h w"], at: tuple[int, int], *, index: int = 0, count: int = 20
) -> Sources | None:
    """What a pixel draws on; None for a network without affinities.

    Args:
        at: x and y of the pixel.
        index: which affinity, in the order of `network.trace`.
        count: how many of the strongest pixels are listed.
    Raises: UsageError for an affinity that the network does not have.
    """
    operators = network.operators()
    if not operators:
        return None
    if not 0 <= index < len(operators):
        some = "one affinity, 0" if len(operators) == 1 else f"affinities 0 to {len(operators) - 1}"
        raise UsageError(f"affinity {index}: this network has {some}")
    height, width = image.shape[2:]
    with _map_sizes(network) as sizes:
        (affinity,) = network.trace(image, keep="recomputed", only=index).affinities
    layout = Layout.of(affinity, sizes.get(id(affinity), (height, width)), height, width)
    queries = layout.queries(*at)
    heat = layout.on_image(affinity.rows(queries).double().mean((0, 1)).cpu())
    reached, reach_is = _reach(affinity, queries)
    groups, groups_are = _groups(affinity, operators[index])
    return Sources(
        operator=type(operators[index]).__name__,
        index=index,
        num_affinities=len(operators),
        heat=heat,
        strongest=strongest(heat, count),
        reach=None if reached is None else layout.on_image(reached.double()) > 0,
        reach_is=reach_is,
        groups=None if groups is None else layout.codes_on_image(groups),
        groups_are=groups_are,
    )


@dataclass(frozen=True)
class Layout:
    """How the queries and keys of an affinity lie on an image.

    The map that is matched may be larger than the image: continued at the bottom and at the right, and enlarged by a
    factor. A key may stand for a cell of several positions of the map.
    """

    height: int
    width: int
    map_height: int
    map_width: int
    factor: int
    """Positions of the map per pixel, along a side."""
    cell: int
    """Positions of the map per key, along a side."""

    @classmethod
    def of(cls, affinity: Affinity, map_size: tuple[int, int], height: int, width: int) -> "Layout":
        """
        Args:
            map_size: height and width of the map of queries, where the affinity does not know them.
            height, width: size of the image; each is larger than what is added to it.
        """
        cell = 1
        if isinstance(affinity, PatchwiseAffinity):
            map_size = affinity.height, affinity.width
            cell = map_size[1] // affinity.factor.shape[-1]
        elif isinstance(affinity, GroupedAffinity):
            map_size = affinity.grouping.height, affinity.grouping.width
        return cls(height, width, *map_size, factor=map_size[1] // width, cell=cell)

    def queries(self, x: int, y: int) -> Int[Tensor, " f2"]:
        """The positions of the map that belong to a pixel."""
        offsets = torch.arange(self.factor)
        rows, columns = self.factor * y + offsets, self.factor * x + offsets
        return (rows[:, None] * self.map_width + columns).flatten()

    def on_image(self, weights: Float[Tensor, " keys"]) -> Float[Tensor, "h w"]:
        """Weights of the keys as weights of the pixels; those of a cell are shared equally among its positions."""
        map = weights.view(self.map_height // self.cell, self.map_width // self.cell) / self.cell**2
        map = map.repeat_interleave(self.cell, 0).repeat_interleave(self.cell, 1)
        map = map[: self.factor * self.height, : self.factor * self.width]
        return F.avg_pool2d(map[None], self.factor, divisor_override=1)[0]

    def codes_on_image(self, codes: Int[Tensor, "r keys"]) -> Int[Tensor, "r h w"]:
        """Codes of the keys as codes of the pixels: of several, the first."""
        map = codes.unflatten(1, (self.map_height, self.map_width))
        return map[:, :: self.factor, :: self.factor][:, : self.height, : self.width]


def strongest(heat: Float[Tensor, "h w"], count: int) -> Int[Tensor, "n 2"]:
    """x and y of the largest values above zero, in falling order."""
    ranked = heat.flatten().sort(descending=True, stable=True)
    places = ranked.indices[:count][ranked.values[:count] > 0]
    return torch.stack((places % heat.shape[1], places // heat.shape[1]), dim=1)


@contextmanager
def _map_sizes(network: Network) -> Iterator[dict[int, tuple[int, int]]]:
    """Height and width of the maps on which affinities are matched, by id, while a network runs."""
    sizes: dict[int, tuple[int, int]] = {}

    def note(_: nn.Module, inputs: tuple[Any, ...], outputs: tuple[Tensor, Affinity]) -> None:
        height, width = inputs[0].shape[2:]
        sizes[id(outputs[1])] = height, width

    hooks = [module.register_forward_hook(note) for module in network.modules() if isinstance(module, SharedAttention)]
    try:
        yield sizes
    finally:
        for hook in hooks:
            hook.remove()


def _reach(affinity: Affinity, queries: Int[Tensor, " q"]) -> tuple[Bool[Tensor, " keys"] | None, str]:
    """The keys that queries can draw on, in any round, image or head, and what they are called."""
    reached = torch.zeros(affinity.num_keys, dtype=torch.bool)
    if isinstance(affinity, HeadsAffinity):
        affinity = affinity.affinity
    if isinstance(affinity, ChunkedAffinity):
        reached[_neighbourhood(affinity, queries)] = True
        return reached, "in its window of sorted positions"
    if isinstance(affinity, SetAffinity):
        indices, present = affinity.key_set.indices, affinity.key_set.present
        reached[(indices if present is None else indices[present]).flatten().cpu()] = True
        return reached, "in the key set"
    if isinstance(affinity, GroupedAffinity):
        groups, _ = _groups(affinity, None)
        assert groups is not None
        return torch.isin(groups[0], groups[0, queries]), f"in its {affinity.grouping.layout}"
    return None, "all"


def _neighbourhood(affinity: ChunkedAffinity, queries: Int[Tensor, " q"]) -> Int[Tensor, " keys"]:
    """The positions in the chunks of the queries and in those beside them; from the sort order rather than from the
    weights, some of which round to zero."""
    chunks = affinity.chunks
    order, slots = chunks.order[0].cpu(), chunks.slots[0].cpu()
    first = (slots[:, queries] // chunks.chunk_size - 1) * chunks.chunk_size
    columns = (first[..., None] + torch.arange(3 * chunks.chunk_size)) % order.shape[1]
    return order.gather(1, columns.flatten(1)).flatten()


def _groups(affinity: Affinity, operator: Operator | None) -> tuple[Int[Tensor, "r keys"] | None, str]:
    """The group of each key, in each round, and what groups are called."""
    if isinstance(affinity, ChunkedAffinity):
        return affinity.codes[0].cpu(), GROUPS.get(type(operator) if operator else Operator, "groups")
    if isinstance(affinity, GroupedAffinity):
        positions = affinity.grouping.positions()
        numbers = torch.arange(len(positions))[:, None].expand_as(positions)
        groups = numbers.new_zeros(1 + affinity.num_keys).scatter_(0, positions.flatten(), numbers.flatten())
        return groups[None, 1:], f"{affinity.grouping.layout}s"
    return None, ""
