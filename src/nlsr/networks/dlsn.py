"""DLSN, also called GLAN: residual groups, each ending in a global learnable attention of its own.

Source: Su et al., "Global Learnable Attention for Single Image Super-Resolution", TPAMI 2022, arXiv 2212.01057.
"""

from dataclasses import dataclass

from nlsr.attention import GlobalLearnable, SharedAttention, global_learnable_attention
from nlsr.networks.configs import settings_for
from nlsr.networks.residual_groups import ResidualGroupsNetwork


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


class DLSN(ResidualGroupsNetwork):
    """Deep Learnable Similarity Network."""

    config: DLSNConfig

    def _attention(self, index: int) -> SharedAttention:
        channels, settings = self.config.channels, settings_for(GlobalLearnable, self.config, seed=index)
        return global_learnable_attention(channels, GlobalLearnable(channels, **settings))
