"""The trunk that LCoAN, NLAN and DLSN share: residual groups, each of which ends in an attention."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from nlsr.attention import Affinity, Draws, Keep, Operator, SharedAttention
from nlsr.networks.network import Collect, Network, NetworkDraws, draws_in_turn
from nlsr.networks.parts import EdsrUpsampler, ResidualBlock, check_low_res, mean_colour, upsampling_values


class ResidualGroupsNetwork(Network):
    """An EDSR in groups with attentions. A subclass says which attention a group has."""

    def __init__(self, config: Any) -> None:
        """Raises: ShapeError if sizes do not fit each other."""
        super().__init__(config)
        channels = config.channels
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.groups = nn.ModuleList(
            ResidualGroup(config, lambda index=index: self._attention(index)) for index in range(config.num_groups)
        )
        self.fuse = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = self._upsampler()

    @abstractmethod
    def _attention(self, index: int) -> SharedAttention | None:
        """What a group ends in; without an operator of its own it reuses the affinity of a group before."""

    def _upsampler(self) -> nn.Module:
        return EdsrUpsampler(self.config.channels, self.scale)

    def _upscale(
        self, low_res: Float[Tensor, "b 3 h w"], *, draws: NetworkDraws | None, keep: Keep, collect: Collect
    ) -> Float[Tensor, "b 3 sh sw"]:
        check_low_res(low_res)
        mean, turn = mean_colour(low_res), draws_in_turn(draws)
        shallow = deep = self.head(low_res - mean)
        affinity = None
        for group in self.groups:  # some match, the others reuse
            if group.matches:
                affinity = None  # that of a group before lives no longer
                deep, affinity = group(deep, None, draws=next(turn), keep=keep)
                collect(affinity)
            else:
                deep, affinity = group(deep, affinity, draws=None, keep=keep)
        affinity = None  # nothing needs it any longer
        return self.upsample(shallow + self.fuse(deep)) + self._base(low_res, mean)

    def _base(self, low_res: Float[Tensor, "b 3 h w"], mean: Float[Tensor, "1 3 1 1"]) -> Tensor:
        """What the trunk adds its result to."""
        return mean

    def bytes_per_pixel(self) -> int:
        """The greater of two: feature maps and one affinity, and what the upsampler makes; measured."""
        return 4 * max(6 * self.config.channels + self._held(), upsampling_values(self.config.channels, self.scale))

    def _held(self) -> int:
        """Numbers per position of the affinity that needs most."""
        channels = self.config.channels
        return max((operator.floats_per_position(channels) for operator in self.operators()), default=0)

    def operators(self) -> list[Operator]:
        attentions = [group.attention for group in self.groups if isinstance(group, ResidualGroup)]
        return [attention.operator for attention in attentions if attention and attention.operator]


class ResidualGroup(nn.Module):
    """Residual blocks, attention, one convolution, and a scaled skip around all."""

    def __init__(self, config: Any, attention: Callable[[], SharedAttention | None]) -> None:
        """
        Args:
            attention: makes it, after the blocks: the order decides the first weights.
        """
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualBlock(config.channels) for _ in range(config.num_blocks)))
        self.attention = attention()
        self.fuse = nn.Conv2d(config.channels, config.channels, 3, padding=1)
        self.residual_scale = config.residual_scale

    @property
    def matches(self) -> bool:
        """Whether the group has an operator of its own."""
        return self.attention is not None and self.attention.operator is not None

    def forward(
        self, features: Float[Tensor, "b c h w"], affinity: Affinity | None, *, draws: Draws | None, keep: Keep
    ) -> tuple[Float[Tensor, "b c h w"], Affinity | None]:
        refined = self.blocks(features)
        if self.attention is not None:
            refined, affinity = self.attention(refined, affinity, draws=draws, keep=keep)
        return features + self.residual_scale * self.fuse(refined), affinity
