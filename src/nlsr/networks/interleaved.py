"""The trunk that NLSN and ENLCN share: residual blocks in one row, an attention before the first and after every
eighth."""

from abc import abstractmethod
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from nlsr.attention import Keep, Operator, SharedAttention
from nlsr.networks.network import Collect, Network, NetworkDraws, draws_in_turn
from nlsr.networks.parts import EdsrUpsampler, ResidualBlock, check_low_res, mean_colour, upsampling_values

BLOCKS_BETWEEN = 8
"""Residual blocks from one attention to the next."""


class InterleavedNetwork(Network):
    """An EDSR with attentions between its blocks. A subclass says which attention."""

    def __init__(self, config: Any) -> None:
        """Raises: ShapeError if sizes do not fit each other."""
        super().__init__(config)
        channels = config.channels
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.ModuleList([self._attention(seed=0)])
        for index in range(1, config.num_blocks + 1):
            self.body.append(ResidualBlock(channels, residual_scale=config.residual_scale))
            if index % BLOCKS_BETWEEN == 0:
                self.body.append(self._attention(seed=index // BLOCKS_BETWEEN))
        self.fuse = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = EdsrUpsampler(channels, config.scale)

    @abstractmethod
    def _attention(self, *, seed: int) -> SharedAttention: ...

    def _upscale(
        self, low_res: Float[Tensor, "b 3 h w"], *, draws: NetworkDraws | None, keep: Keep, collect: Collect
    ) -> Float[Tensor, "b 3 sh sw"]:
        check_low_res(low_res)
        mean, turn = mean_colour(low_res), draws_in_turn(draws)
        shallow = deep = self.head(low_res - mean)
        for part in self.body:
            if isinstance(part, SharedAttention):
                deep, affinity = part(deep, draws=next(turn), keep=keep)
                collect(affinity)
                del affinity  # or it would live through the next blocks
            else:
                deep = part(deep)
        return self.upsample(shallow + self.fuse(deep)) + mean

    def bytes_per_pixel(self) -> int:
        """The greater of two: feature maps and one affinity, and what the upsampler makes; measured."""
        channels = self.config.channels
        held = max(operator.floats_per_position(channels) for operator in self.operators())
        return 4 * max(6 * channels + held, upsampling_values(channels, self.scale))

    def operators(self) -> list[Operator]:
        return [part.operator for part in self.body if isinstance(part, SharedAttention) and part.operator]
