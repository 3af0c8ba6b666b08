"""LCoAN: residual groups, each ending in a non-local attention; the first group matches, the others reuse its affinity.

Source: arXiv 2404.04922. One attention can be exchanged for another, or left out, to see what it brings.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.attention import Operator, SharedAttention, build_operator
from nlsr.attention.learnable_collaborative import Learning
from nlsr.attention.registry import operator_class
from nlsr.errors import ShapeError
from nlsr.networks.configs import settings_for
from nlsr.networks.parts import DirectUpsampler, EdsrUpsampler, upsampling_values
from nlsr.networks.residual_groups import ResidualGroupsNetwork


@dataclass(frozen=True)
class LCoANConfig:
    """Sizes of an LCoAN; the defaults are the published ones."""

    scale: int
    channels: int = 128
    num_groups: int = 10
    num_blocks: int = 4
    """Residual blocks per group."""
    residual_scale: float = 0.1
    """Factor of what each attention and each group adds."""
    operator: str = "kmeans"
    """A name in `nlsr.attention.OPERATORS`, or "none"."""
    operator_settings: dict[str, Any] = field(default_factory=dict)
    """Further keywords of the operator, which outrank the fields below."""
    share: bool = True
    """One affinity for all groups; otherwise each group matches its own."""
    reduction: int = 1
    """The embedding that is matched has channels / reduction entries."""
    num_clusters: int = 128
    chunk_size: int = 384
    """Sorted positions per chunk; each draws on three chunks."""
    rounds: int = 1
    num_keys: int = 128
    """The set that all positions draw on, for `leverage`."""
    centroid_decay: float = 0.999
    centroid_learning: Learning = "moving-average"
    balanced: bool = False
    """Positions are spread evenly over the clusters of an image."""
    upsampler: Literal["edsr", "direct"] = "edsr"
    image_skip: bool = False
    """Learn the difference to the enlarged input (nearest neighbour) instead of the image."""

    def __post_init__(self) -> None:
        """Raises: UsageError for an operator that is not known."""
        if self.operator != "none":
            operator_class(self.operator)


def lcoan(scale: int) -> LCoANConfig:
    """The published network: 15.7 to 16.4 million parameters with those it never uses, 14.3 to 15.1 without."""
    return LCoANConfig(scale)


def lcoan_light(scale: int) -> LCoANConfig:
    """Our own network for CPUs: 1.04 million parameters at x4, two groups of which the second reuses the match.

    `recipes/README.md` says how its shape was chosen: it takes PAN's time at most.
    """
    return LCoANConfig(
        scale,
        channels=64,
        num_groups=2,
        num_blocks=6,
        residual_scale=1.0,
        reduction=4,
        chunk_size=64,
        centroid_decay=0.99,
        balanced=True,
        upsampler="direct",
        image_skip=True,
    )


class LCoAN(ResidualGroupsNetwork):
    """Learnable Collaborative Attention Network."""

    config: LCoANConfig

    def _attention(self, index: int) -> SharedAttention | None:
        config = self.config
        if config.operator == "none":
            return None
        operator = _operator(config, index) if index == 0 or not config.share else None
        attention = SharedAttention(config.channels, operator, residual_scale=config.residual_scale)
        # Attention starts as the identity: with random values it was 0.8 dB behind the network without attention after
        # the first thousand steps.
        for parameter in attention.values.parameters():
            nn.init.zeros_(parameter)
        return attention

    def _upsampler(self) -> nn.Module:
        kind = {"edsr": EdsrUpsampler, "direct": DirectUpsampler}[self.config.upsampler]
        return kind(self.config.channels, self.scale)

    def _base(self, low_res: Float[Tensor, "b 3 h w"], mean: Float[Tensor, "1 3 1 1"]) -> Tensor:
        if self.config.image_skip:
            return F.interpolate(low_res, scale_factor=self.scale, mode="nearest")
        return mean

    def bytes_per_pixel(self) -> int:
        """The greater of two: feature maps and the stored affinity, and what the upsampler makes; measured."""
        channels, scale = self.config.channels, self.scale
        direct = self.config.upsampler == "direct"
        upsampled = 6 * (channels + scale**2) if direct else upsampling_values(channels, scale)
        return 4 * max(7 * channels + self._held(), upsampled)


def _operator(config: LCoANConfig, index: int) -> Operator:
    """The operator of a group.

    Raises: ShapeError if what it draws is of another size.
    """
    settings = settings_for(operator_class(config.operator), config, seed=index) | config.operator_settings
    operator = build_operator(config.operator, config.channels, settings)
    if operator.scale != 1:
        raise ShapeError(f"operator '{config.operator}' enlarges what it draws, which no group can add to its features")
    return operator
