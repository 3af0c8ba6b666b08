"""The trunk that LCoAN, NLAN and DLSN share: residual groups, each of which ends in an attention."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from nlsr.attention import Affinity, Draws, Keep, SharedAttention
from nlsr.networks.network import Collect
from nlsr.networks.parts import ResidualBlock
from nlsr.networks.trunk import TrunkNetwork


class ResidualGroupsNetwork(TrunkNetwork):
    """An EDSR in groups with attentions. A subclass says which attention a group has."""

    def _make_trunk(self) -> None:
        self.groups = nn.ModuleList(
            ResidualGroup(self.config, lambda index=index: self._attention(index))
            for index in range(self.config.num_groups)
        )

    @abstractmethod
    def _attention(self, index: int) -> SharedAttention | None:
        """What a group ends in; without an operator of its own it reuses the affinity of a group before."""

    def _refine(
        self, features: Float[Tensor, "b c h w"], turn: Iterator[Draws | None], *, keep: Keep, collect: Collect
    ) -> Float[Tensor, "b c h w"]:
        affinity = None
        for group in self.groups:  # some match, the others reuse
            if group.matches:
                affinity = None  # that of a group before lives no longer
                features, affinity = group(features, None, draws=next(turn), keep=keep)
                collect(affinity)
            else:
                features, affinity = group(features, affinity, draws=None, keep=keep)
        return features


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
        return features.add(self.fuse(refined), alpha=self.residual_scale), affinity
