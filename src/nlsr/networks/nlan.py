"""NLAN: residual groups, each ending in a full non-local attention of its own; the quadratic baseline of LCoAN.

Source: arXiv 2404.04922, whose repository names the network but lacks its attention; that is taken from the repository
of NLSN (CVPR 2021). No weights are published.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from nlsr.attention import Affinity, Keep, Operator
from nlsr.attention.dense import nonlocal_attention
from nlsr.networks.network import Collect, Network, NetworkDraws
from nlsr.networks.parts import EdsrUpsampler, ResidualBlock, check_low_res, mean_colour, upsampling_values


@dataclass(frozen=True)
class NLANConfig:
    """Sizes of an NLAN; the defaults are those of the LCoAN it is the baseline of."""

    scale: int
    channels: int = 128
    num_groups: int = 10
    num_blocks: int = 4
    """Residual blocks per group."""
    reduction: int = 2
    """Queries and keys have channels / reduction entries."""
    residual_scale: float = 0.1
    """Factor of what each group adds, and of what each attention keeps of its input."""


def nlan(scale: int) -> NLANConfig:
    """The baseline at the size of the published LCoAN: 14.2 to 15.0 million parameters."""
    return NLANConfig(scale)


class NLAN(Network):
    """Non-Local Attention Network: time is quadratic in the pixels, memory linear."""

    config: NLANConfig

    def __init__(self, config: NLANConfig) -> None:
        """Raises: ShapeError if sizes do not fit each other."""
        super().__init__(config)
        channels = config.channels
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.groups = nn.ModuleList(NonLocalGroup(config) for _ in range(config.num_groups))
        self.fuse = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = EdsrUpsampler(channels, config.scale)

    def _upscale(
        self, low_res: Float[Tensor, "b 3 h w"], *, draws: NetworkDraws | None, keep: Keep, collect: Collect
    ) -> Float[Tensor, "b 3 sh sw"]:
        check_low_res(low_res)
        mean = mean_colour(low_res)
        shallow = deep = self.head(low_res - mean)
        for group in self.groups:
            deep, affinity = group(deep)
            collect(affinity)
            del affinity  # or it would live through the next group
        return self.upsample(shallow + self.fuse(deep)) + mean

    def bytes_per_pixel(self) -> int:
        """The greater of two: feature maps and one affinity, and what the upsampler makes; measured."""
        channels = self.config.channels
        held = max(operator.floats_per_position(channels) for operator in self.operators())
        return 4 * max(6 * channels + held, upsampling_values(channels, self.scale))

    def operators(self) -> list[Operator]:
        attentions = [group.attention for group in self.groups if isinstance(group, NonLocalGroup)]
        return [attention.operator for attention in attentions if attention.operator]


class NonLocalGroup(nn.Module):
    """Residual blocks, attention, one convolution, and a skip around all."""

    def __init__(self, config: NLANConfig) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualBlock(config.channels) for _ in range(config.num_blocks)))
        self.attention = nonlocal_attention(
            config.channels, reduction=config.reduction, input_scale=config.residual_scale
        )
        self.fuse = nn.Conv2d(config.channels, config.channels, 3, padding=1)
        self.residual_scale = config.residual_scale

    def forward(self, features: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], Affinity]:
        refined, affinity = self.attention(self.blocks(features))
        return features + self.residual_scale * self.fuse(refined), affinity
