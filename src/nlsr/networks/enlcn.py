"""ENLCN: residual blocks in one row, with an efficient non-local contrastive attention between every eight.

Source: Xia et al., "Efficient Non-Local Contrastive Attention for Image Super-Resolution", AAAI 2022,
arXiv 2201.03794.
"""

from dataclasses import dataclass

from nlsr.attention import EfficientContrastive
from nlsr.networks.interleaved import InterleavedNetwork


@dataclass(frozen=True)
class ENLCNConfig:
    """Sizes of an ENLCN; the defaults are the published ones."""

    scale: int
    channels: int = 256
    num_blocks: int = 32
    reduction: int = 4
    num_features: int = 128
    amplification: float = 6.0
    residual_scale: float = 0.1
    """Factor of what each block and each attention adds."""


def enlcn(scale: int) -> ENLCNConfig:
    """The published network: 41.2 to 44.2 million parameters."""
    return ENLCNConfig(scale)


class ENLCN(InterleavedNetwork):
    """Efficient Non-Local Contrastive Network."""

    config: ENLCNConfig
    operator = EfficientContrastive
