"""What LCoAN, NLAN, DLSN, NLSN and ENLCN share: an EDSR whose trunk has attentions in it."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from nlsr.attention import Draws, Keep
from nlsr.networks.network import Collect, Network, NetworkDraws, draws_in_turn
from nlsr.networks.parts import EdsrUpsampler, check_low_res, mean_colour, upsampling_values


class TrunkNetwork(Network):
    """A convolution, the trunk with a skip around it, and an upsampler. A subclass says what the trunk is."""

    def __init__(self, config: Any) -> None:
        """Raises: ShapeError if sizes do not fit each other."""
        super().__init__(config)
        channels = config.channels
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self._make_trunk()
        self.fuse = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = self._upsampler()

    @abstractmethod
    def _make_trunk(self) -> None:
        """The modules of the trunk: between head and tail, as the order decides the first weights."""

    @abstractmethod
    def _refine(
        self, features: Float[Tensor, "b c h w"], turn: Iterator[Draws | None], *, keep: Keep, collect: Collect
    ) -> Float[Tensor, "b c h w"]:
        """What the trunk makes of the features.

        Args:
            turn: what each operator draws from, in order.
        """

    def _upsampler(self) -> nn.Module:
        return EdsrUpsampler(self.config.channels, self.scale)

    def _upscale(
        self, low_res: Float[Tensor, "b 3 h w"], *, draws: NetworkDraws | None, keep: Keep, collect: Collect
    ) -> Float[Tensor, "b 3 sh sw"]:
        check_low_res(low_res)
        mean = mean_colour(low_res)
        shallow = self.head(low_res - mean)
        deep = self._refine(shallow, draws_in_turn(draws), keep=keep, collect=collect)
        return self.upsample(shallow + self.fuse(deep)) + self._base(low_res, mean)

    def _base(self, low_res: Float[Tensor, "b 3 h w"], mean: Float[Tensor, "1 3 1 1"]) -> Tensor:
        """What the result of the upsampler is added to."""
        return mean

    def bytes_per_pixel(self) -> int:
        """The greater of two: feature maps and one affinity, and what the upsampler makes; measured."""
        return 4 * max(6 * self.config.channels + self._held(), upsampling_values(self.config.channels, self.scale))

    def _held(self) -> int:
        """Numbers per position of the affinity that needs most."""
        channels = self.config.channels
        return max((operator.floats_per_position(channels) for operator in self.operators()), default=0)
