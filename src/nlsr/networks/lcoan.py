"""LCoAN: residual groups, each ending in a non-local attention; the first group matches, the others reuse its affinity.

Source: arXiv 2404.04922. One attention can be exchanged for another, or left out, to see what it brings.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.attention import Affinity, Draws, Keep, Operator, SharedAttention, build_operator
from nlsr.attention.learnable_collaborative import Learning
from nlsr.attention.registry import operator_class
from nlsr.errors import ShapeError
from nlsr.networks.network import Collect, Network, NetworkDraws, draws_in_turn
from nlsr.networks.parts import (
    DirectUpsampler,
    EdsrUpsampler,
    ResidualBlock,
    check_low_res,
    mean_colour,
    upsampling_values,
)


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
    """Our own network for CPUs: 0.83 million parameters at x4, one matching and three reusing attentions.

    `recipes/README.md` says how its shape was chosen.
    """
    return LCoANConfig(
        scale,
        channels=64,
        num_groups=4,
        num_blocks=2,
        residual_scale=1.0,
        reduction=4,
        chunk_size=64,
        centroid_decay=0.99,
        upsampler="direct",
        image_skip=True,
    )


class LCoAN(Network):
    """Learnable Collaborative Attention Network."""

    config: LCoANConfig

    def __init__(self, config: LCoANConfig) -> None:
        """Raises: ShapeError if sizes do not fit each other."""
        super().__init__(config)
        channels = config.channels
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.groups = nn.ModuleList(Group(config, index) for index in range(config.num_groups))
        self.fuse = nn.Conv2d(channels, channels, 3, padding=1)
        upsampler = {"edsr": EdsrUpsampler, "direct": DirectUpsampler}[config.upsampler]
        self.upsample = upsampler(channels, config.scale)

    def _upscale(
        self, low_res: Float[Tensor, "b 3 h w"], *, draws: NetworkDraws | None, keep: Keep, collect: Collect
    ) -> Float[Tensor, "b 3 sh sw"]:
        check_low_res(low_res)
        mean, turn = mean_colour(low_res), draws_in_turn(draws)
        shallow = self.head(low_res - mean)
        deep, affinity = shallow, None
        for group in self.groups:  # the first group matches, the others reuse its affinity
            if group.matches:
                affinity = None  # that of a group before lives no longer
                deep, affinity = group(deep, None, draws=next(turn), keep=keep)
                collect(affinity)
            else:
                deep, affinity = group(deep, affinity, draws=None, keep=keep)
        affinity = None  # nothing needs it any longer
        upscaled = self.upsample(shallow + self.fuse(deep))
        if self.config.image_skip:
            upscaled = upscaled + F.interpolate(low_res, scale_factor=self.config.scale, mode="nearest")
        else:
            upscaled = upscaled + mean
        return upscaled

    def bytes_per_pixel(self) -> int:
        """The greater of two: feature maps and the stored affinity, and what the upsampler makes; measured."""
        config = self.config
        held = max((operator.floats_per_position(config.channels) for operator in self.operators()), default=0)
        if config.upsampler == "direct":
            upsampled = 6 * (config.channels + config.scale**2)
        else:
            upsampled = upsampling_values(config.channels, config.scale)
        return 4 * max(7 * config.channels + held, upsampled)

    def operators(self) -> list[Operator]:
        attentions = [group.attention for group in self.groups if isinstance(group, Group)]
        return [attention.operator for attention in attentions if attention and attention.operator]


class Group(nn.Module):
    """Residual blocks, attention, one convolution, and a skip around all."""

    def __init__(self, config: LCoANConfig, index: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualBlock(config.channels) for _ in range(config.num_blocks)))
        self.attention: SharedAttention | None = None
        self.matches = config.operator != "none" and (index == 0 or not config.share)
        if config.operator != "none":
            operator = _operator(config, index) if self.matches else None
            self.attention = SharedAttention(config.channels, operator, residual_scale=config.residual_scale)
            # Attention starts as the identity: with random values it was 0.8 dB behind the network without attention
            # after the first thousand steps.
            for parameter in self.attention.values.parameters():
                nn.init.zeros_(parameter)
        self.fuse = nn.Conv2d(config.channels, config.channels, 3, padding=1)
        self.residual_scale = config.residual_scale

    def forward(
        self, features: Float[Tensor, "b c h w"], affinity: Affinity | None, *, draws: Draws | None, keep: Keep
    ) -> tuple[Float[Tensor, "b c h w"], Affinity | None]:
        refined = self.blocks(features)
        if self.attention is not None:
            refined, affinity = self.attention(refined, affinity, draws=draws, keep=keep)
        return features + self.residual_scale * self.fuse(refined), affinity


def _operator(config: LCoANConfig, index: int) -> Operator:
    """The operator of a group.

    Raises: ShapeError if what it draws is of another size.
    """
    known, wanted = vars(config) | {"seed": index}, operator_class(config.operator).network_settings
    settings = {name: known[name] for name in wanted if name in known} | config.operator_settings
    operator = build_operator(config.operator, config.channels, settings)
    if operator.scale != 1:
        raise ShapeError(f"operator '{config.operator}' enlarges what it draws, which no group can add to its features")
    return operator
