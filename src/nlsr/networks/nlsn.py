"""NLSN: residual blocks in one row, with a non-local sparse attention between every eight.

Source: Mei et al., "Image Super-Resolution with Non-Local Sparse Attention", CVPR 2021.
"""

from dataclasses import dataclass

from nlsr.attention import NonLocalSparse
from nlsr.networks.interleaved import InterleavedNetwork


@dataclass(frozen=True)
class NLSNConfig:
    """Sizes of an NLSN; the defaults are the published ones."""

    scale: int
    channels: int = 256
    num_blocks: int = 32
    reduction: int = 4
    chunk_size: int = 144
    rounds: int = 4
    residual_scale: float = 0.1
    """Factor of what each block and each attention adds."""


def nlsn(scale: int) -> NLSNConfig:
    """The published network: 41.8 to 44.7 million parameters."""
    return NLSNConfig(scale)


class NLSN(InterleavedNetwork):
    """Non-Local Sparse Network."""

    config: NLSNConfig
    operator = NonLocalSparse
