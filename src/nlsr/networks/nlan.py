"""NLAN: residual groups, each ending in a full non-local attention of its own; the quadratic baseline of LCoAN.

Source: arXiv 2404.04922, whose repository names the network but lacks its attention; that is taken from the repository
of NLSN (CVPR 2021). No weights are published.
"""

from dataclasses import dataclass

from nlsr.attention import SharedAttention
from nlsr.attention.dense import nonlocal_attention
from nlsr.networks.residual_groups import ResidualGroupsNetwork


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


class NLAN(ResidualGroupsNetwork):
    """Non-Local Attention Network: time is quadratic in the pixels, memory linear."""

    config: NLANConfig

    def _attention(self, index: int) -> SharedAttention:
        config = self.config
        return nonlocal_attention(config.channels, reduction=config.reduction, input_scale=config.residual_scale)
