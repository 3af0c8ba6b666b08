"""The trunk that NLSN and ENLCN share: residual blocks in one row, an attention before the first and after every
eighth."""

from collections.abc import Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from nlsr.attention import Draws, Keep, SharedAttention
from nlsr.networks.configs import settings_for
from nlsr.networks.network import Collect
from nlsr.networks.parts import ResidualBlock
from nlsr.networks.trunk import TrunkNetwork

BLOCKS_BETWEEN = 8
"""Residual blocks from one attention to the next."""


class InterleavedNetwork(TrunkNetwork):
    """An EDSR with attentions between its blocks. A subclass says which operator they match with."""

    operator: type[Any]

    def _make_trunk(self) -> None:
        self.body = nn.ModuleList([self._attention(seed=0)])
        for index in range(1, self.config.num_blocks + 1):
            self.body.append(ResidualBlock(self.config.channels, residual_scale=self.config.residual_scale))
            if index % BLOCKS_BETWEEN == 0:
                self.body.append(self._attention(seed=index // BLOCKS_BETWEEN))

    def _attention(self, *, seed: int) -> SharedAttention:
        channels, settings = self.config.channels, settings_for(self.operator, self.config, seed=seed)
        return SharedAttention(channels, self.operator(channels, **settings), residual_scale=self.config.residual_scale)

    def _refine(
        self, features: Float[Tensor, "b c h w"], turn: Iterator[Draws | None], *, keep: Keep, collect: Collect
    ) -> Float[Tensor, "b c h w"]:
        for part in self.body:
            if isinstance(part, SharedAttention):
                features, affinity = part(features, draws=next(turn), keep=keep)
                collect(affinity)
                del affinity  # or it would live through the next blocks
            else:
                features = part(features)
        return features
