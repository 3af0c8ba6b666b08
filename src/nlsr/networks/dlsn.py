"""DLSN, also called GLAN: residual groups, each ending in a global learnable attention of its own.

Source: Su et al., "Global Learnable Attention for Single Image Super-Resolution", TPAMI 2022, arXiv 2212.01057.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from nlsr.attention import Affinity, Draws, GlobalLearnable, Keep, Operator, global_learnable_attention
from nlsr.networks.network import Collect, Network, NetworkDraws, draws_in_turn
from nlsr.networks.parts import EdsrUpsampler, ResidualBlock, check_low_res, mean_colour, upsampling_values


@dataclass(frozen=True)
class DLSNConfig:
    """Sizes of a DLSN; the defaults are the published ones."""

    scale: int
    channels: int = 256
    num_groups: int = 10
    num_blocks: int = 4
    """Residual blocks per group."""
    reduction: int = 4
    chunk_size: int = 128
    rounds: int = 3
    residual_scale: float = 0.1
    """Factor of what each group adds; blocks and attentions inside add without one."""


def dlsn(scale: int) -> DLSNConfig:
    """The published network: 69.8 to 72.8 million parameters."""
    return DLSNConfig(scale)


class DLSN(Network):
    """Deep Learnable Similarity Network."""

    config: DLSNConfig

    def __init__(self, config: DLSNConfig) -> None:
        """Raises: ShapeError if sizes do not fit each other."""
        super().__init__(config)
        channels = config.channels
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.groups = nn.ModuleList(LearnableGroup(config, seed=index) for index in range(config.num_groups))
        self.fuse = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = EdsrUpsampler(channels, config.scale)

    def _upscale(
        self, low_res: Float[Tensor, "b 3 h w"], *, draws: NetworkDraws | None, keep: Keep, collect: Collect
    ) -> Float[Tensor, "b 3 sh sw"]:
        check_low_res(low_res)
        mean, turn = mean_colour(low_res), draws_in_turn(draws)
        shallow = deep = self.head(low_res - mean)
        for group in self.groups:
            deep, affinity = group(deep, draws=next(turn), keep=keep)
            collect(affinity)
            del affinity  # or it would live through the next group
        return self.upsample(shallow + self.fuse(deep)) + mean

    def bytes_per_pixel(self) -> int:
        """The greater of two: feature maps and one affinity, and what the upsampler makes; measured."""
        channels = self.config.channels
        held = max(operator.floats_per_position(channels) for operator in self.operators())
        return 4 * max(6 * channels + held, upsampling_values(channels, self.scale))

    def operators(self) -> list[Operator]:
        attentions = [group.attention for group in self.groups if isinstance(group, LearnableGroup)]
        return [attention.operator for attention in attentions if attention.operator]


class LearnableGroup(nn.Module):
    """Residual blocks, attention, one convolution, and a scaled skip around all."""

    def __init__(self, config: DLSNConfig, *, seed: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualBlock(config.channels) for _ in range(config.num_blocks)))
        operator = GlobalLearnable(
            config.channels,
            reduction=config.reduction,
            chunk_size=config.chunk_size,
            rounds=config.rounds,
            seed=seed,
        )
        self.attention = global_learnable_attention(config.channels, operator)
        self.fuse = nn.Conv2d(config.channels, config.channels, 3, padding=1)
        self.residual_scale = config.residual_scale

    def forward(
        self, features: Float[Tensor, "b c h w"], *, draws: Draws | None, keep: Keep
    ) -> tuple[Float[Tensor, "b c h w"], Affinity]:
        refined, affinity = self.attention(self.blocks(features), draws=draws, keep=keep)
        return features + self.residual_scale * self.fuse(refined), affinity
