"""What a pixel draws on: its row of an affinity laid over the image, and the pattern that decided who is in the row."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from nlsr.attention import Affinity, Operator, operator_name
from nlsr.errors import UsageError
from nlsr.networks import Network


@dataclass(frozen=True, eq=False)
class Sources:
    """What one pixel draws on by one affinity of a network."""

    operator: str
    """The name of what matched, as in `nlsr.attention.OPERATORS`."""
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
    matched = Matched.of(network, image, index=index)
    return None if matched is None else matched.sources(at, count=count)


@dataclass(frozen=True, eq=False)
class Matched:
    """An affinity of a network on an image, to be asked for many pixels: matching takes seconds, a row does not."""

    affinity: Affinity
    operator: Operator
    index: int
    num_affinities: int
    placement: "Placement"

    @classmethod
    @torch.no_grad()
    def of(cls, network: Network, image: Float[Tensor, "1 3 h w"], *, index: int = 0) -> "Matched | None":
        """None for a network without affinities. Raises: UsageError for an affinity that it does not have."""
        operators = network.operators()
        if not operators:
            return None
        if not 0 <= index < len(operators):
            some = "one affinity, 0" if len(operators) == 1 else f"affinities 0 to {len(operators) - 1}"
            raise UsageError(f"affinity {index}: this network has {some}")
        (affinity,) = network.trace(image, keep="recomputed", only=index).affinities
        return cls(affinity, operators[index], index, len(operators), Placement.of(affinity, *image.shape[2:]))

    @torch.no_grad()
    def sources(self, at: tuple[int, int], *, count: int = 20) -> Sources:
        """What a pixel draws on.

        Args:
            at: x and y of the pixel.
            count: how many of the strongest pixels are listed.
        """
        affinity, placement = self.affinity, self.placement
        queries = placement.queries(*at)
        heat = placement.on_image(affinity.rows(queries).double().mean((0, 1)).cpu())
        reached, groups = affinity.reach(queries), affinity.groups()
        return Sources(
            operator=operator_name(self.operator),
            index=self.index,
            num_affinities=self.num_affinities,
            heat=heat,
            strongest=strongest(heat, count),
            reach=None if reached is None else placement.on_image(reached.double()) > 0,
            reach_is=affinity.reach_is,
            groups=None if groups is None else placement.codes_on_image(groups[0].cpu()),
            groups_are=self.operator.groups_are,
        )


@dataclass(frozen=True)
class Placement:
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
    def of(cls, affinity: Affinity, height: int, width: int) -> "Placement":
        """
        Args:
            height, width: size of the image; each is larger than what is added to it.
        """
        return cls(height, width, affinity.height, affinity.width, affinity.width // width, affinity.cell)

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
