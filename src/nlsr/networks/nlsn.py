"""NLSN: residual blocks in one row, with a non-local sparse attention before the first and after every eighth.

Source: Mei et al., "Image Super-Resolution with Non-Local Sparse Attention", CVPR 2021.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from nlsr.attention import Affinity, Keep, NonLocalSparse, Operator, SharedAttention
from nlsr.networks.network import Network, NetworkDraws, Trace, draws_in_turn
from nlsr.networks.parts import EdsrUpsampler, ResidualBlock, check_low_res, mean_colour

BLOCKS_BETWEEN = 8
"""Residual blocks from one attention to the next."""


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


class NLSN(Network):
    """Non-Local Sparse Network."""

    config: NLSNConfig

    def __init__(self, config: NLSNConfig) -> None:
        """Raises: ShapeError if sizes do not fit each other."""
        super().__init__(config)
        channels = config.channels
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.ModuleList([self._attention(seed=0)])
        for index in range(config.num_blocks):
            self.body.append(ResidualBlock(channels, residual_scale=config.residual_scale))
            if (index + 1) % BLOCKS_BETWEEN == 0:
                self.body.append(self._attention(seed=(index + 1) // BLOCKS_BETWEEN))
        self.fuse = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = EdsrUpsampler(channels, config.scale)

    def _attention(self, *, seed: int) -> SharedAttention:
        config = self.config
        operator = NonLocalSparse(
            config.channels,
            reduction=config.reduction,
            chunk_size=config.chunk_size,
            rounds=config.rounds,
            seed=seed,
        )
        return SharedAttention(config.channels, operator, residual_scale=config.residual_scale)

    def trace(
        self, low_res: Float[Tensor, "b 3 h w"], *, draws: NetworkDraws | None = None, keep: Keep = "stored"
    ) -> Trace:
        check_low_res(low_res)
        mean, turn = mean_colour(low_res), draws_in_turn(draws)
        shallow = deep = self.head(low_res - mean)
        affinities: list[Affinity] = []
        for part in self.body:
            if isinstance(part, SharedAttention):
                deep, affinity = part(deep, draws=next(turn), keep=keep)
                affinities.append(affinity)
            else:
                deep = part(deep)
        return Trace(self.upsample(shallow + self.fuse(deep)) + mean, tuple(affinities))

    def bytes_per_pixel(self) -> int:
        """Feature maps alive at once, all affinities of a trace, and what the upsampler makes."""
        config = self.config
        attentions = 1 + config.num_blocks // BLOCKS_BETWEEN
        affinity = config.rounds * (3 * config.chunk_size + 3 * config.channels // config.reduction)
        upsampled = 2 * config.channels * config.scale**2
        return 4 * (6 * config.channels + config.rounds * config.channels + attentions * affinity + upsampled)

    def operators(self) -> list[Operator]:
        return [part.operator for part in self.body if isinstance(part, SharedAttention) and part.operator]
