"""ASID: a light transformer whose first group matches six affinities, in windows and grids, that all groups share.

Within a group the channels are distilled: the three stages of attention work on 3/4, 2/4 and 1/4 of them.

Source: Park et al., "Efficient Attention-Sharing Information Distillation Transformer for Lightweight Single Image
Super-Resolution", AAAI 2025, arXiv 2501.15774.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.attention import Affinity, Keep
from nlsr.attention.affinity import matching_dtype
from nlsr.attention.channel import ChannelAttention, Pattern
from nlsr.attention.shared_window import SharedGrid, SharedWindow, SharedWindowAttention
from nlsr.errors import ShapeError
from nlsr.networks.network import Collect, Network, NetworkDraws
from nlsr.networks.parts import DirectUpsampler, check_low_res, factors

SIDE = 8
"""Side of every window and grid, as published. The sides of padded images are multiples of it."""
SMALLEST_SIDE = 16
"""Smallest side of a padded image. With 8 pixels nothing would be left for the pooling of `SpatialGate`."""
CHANNEL_NORM_EPS = 1e-6
STAGES = 3
"""Stages of attention in a group. Each works on a quarter of the channels less than the one before."""


@dataclass(frozen=True)
class ASIDConfig:
    """Sizes of an ASID; the defaults are the published ones."""

    scale: int
    channels: int = 48
    """A multiple of 4, at least 8."""
    num_groups: int = 3
    signed: bool = True
    """The network sees values in [-1, 1], as the published ones do; otherwise in [0, 1]."""


def asid(scale: int) -> ASIDConfig:
    """The published network: 297,516, 304,011 and 313,104 parameters at x2, x3 and x4."""
    return ASIDConfig(scale)


def asid_d8(scale: int) -> ASIDConfig:
    """The published deeper network: 732,146, 738,641 and 747,734 parameters at x2, x3 and x4."""
    return ASIDConfig(scale, num_groups=8)


class ASID(Network):
    """Attention-Sharing Information Distillation network."""

    config: ASIDConfig

    def __init__(self, config: ASIDConfig) -> None:
        """Raises: ShapeError for another scale than 2, 3 or 4, and for channels that cannot be distilled."""
        super().__init__(config)
        channels = config.channels
        factors(config.scale)
        if channels % 4 or channels < 8:
            raise ShapeError(f"expected channels that are a multiple of 4 and at least 8, got {channels}")
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.groups = nn.ModuleList(Group(channels, matches=index == 0) for index in range(config.num_groups))
        self.fuse = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = DirectUpsampler(channels, config.scale)

    def _upscale(
        self, low_res: Float[Tensor, "b 3 h w"], *, draws: NetworkDraws | None, keep: Keep, collect: Collect
    ) -> Float[Tensor, "b 3 sh sw"]:
        """The affinities are those of the padded image, whose sides are multiples of 8 and at least 16.

        As published, the padding is not masked: a result depends on the size of the image modulo 8 near its lower and
        right border, and through the channel gates, slightly, everywhere.
        """
        check_low_res(low_res)
        height, width = low_res.shape[2:]
        seen = 2 * low_res - 1 if self.config.signed else low_res  # it is here that the padding is zero
        padded = F.pad(seen, (0, _padded(width) - width, 0, _padded(height) - height))
        shallow = deep = self.head(padded)
        affinities: tuple[Affinity, ...] | None = None
        for group in self.groups:  # the first group matches, the others reuse its affinities
            deep, affinities = group(deep, affinities, keep=keep)
        for affinity in affinities or ():
            collect(affinity)
        affinities = None
        upscaled = self.upsample(shallow + self.fuse(deep))
        upscaled = upscaled[:, :, : self.scale * height, : self.scale * width]
        return (upscaled + 1) / 2 if self.config.signed else upscaled

    def bytes_per_pixel(self) -> int:
        """Feature maps alive at once (most in the channel attention), the six stored affinities, and what the
        upsampler makes; measured."""
        config = self.config
        return 4 * (30 * config.channels + 2 * STAGES * SIDE**2 + 2 * 3 * config.scale**2)


class Group(nn.Module):
    """Distillation, one 1x1 convolution, a skip around both, and a gate (IDSG)."""

    def __init__(self, channels: int, *, matches: bool) -> None:
        super().__init__()
        self.distillation = Distillation(channels, matches=matches)
        self.fuse = nn.Conv2d(channels, channels, 1)
        self.gate = SpatialGate(channels)

    def forward(
        self, features: Float[Tensor, "b c h w"], affinities: tuple[Affinity, ...] | None, *, keep: Keep
    ) -> tuple[Float[Tensor, "b c h w"], tuple[Affinity, ...]]:
        refined, affinities = self.distillation(features, affinities, keep=keep)
        return self.gate(self.fuse(refined) + features), affinities


class Distillation(nn.Module):
    """Three stages of attention on ever fewer channels; what each sets aside is joined at the end (IDSA)."""

    def __init__(self, channels: int, *, matches: bool) -> None:
        super().__init__()
        self.part = part = channels // 4
        widths = [channels - index * part for index in range(STAGES)]
        self.stages = nn.ModuleList(Stage(width, part, matches=matches) for width in widths)
        self.distil = nn.ModuleList(nn.Conv2d(width, width, 1) for width in widths[:-1])
        self.fuse = nn.Conv2d(channels, channels, 1)
        self.channel_blocks = nn.Sequential(
            ChannelBlock(channels, pattern="window"), ChannelBlock(channels, pattern="grid")
        )

    def forward(
        self, features: Float[Tensor, "b c h w"], affinities: tuple[Affinity, ...] | None, *, keep: Keep
    ) -> tuple[Float[Tensor, "b c h w"], tuple[Affinity, ...]]:
        """Returns the features, and for each stage the affinity of its window, then that of its grid; affinities
        that were given are returned as they are."""
        distilled: list[Tensor] = []
        used: list[Affinity] = []
        for index, stage in enumerate(self.stages):
            if index > 0:
                refined = self.distil[index - 1](features)
                distilled.append(refined[:, : self.part])
                features = refined[:, self.part :]
            window, grid = affinities[2 * index : 2 * index + 2] if affinities else (None, None)
            features, window, grid = stage(features, window, grid, keep=keep)
            used += [window, grid]
        return self.channel_blocks(self.fuse(torch.cat((*distilled, features), dim=1))), tuple(used)


class Stage(nn.Module):
    """A local block on all channels, then window and grid attention on all but the first part of them.

    The channels that were attended to come first in the result.
    """

    def __init__(self, channels: int, part: int, *, matches: bool) -> None:
        super().__init__()
        self.part = part
        self.local = LocalBlock(channels)
        self.window = AttentionBlock(channels - part, pattern="window", matches=matches)
        self.grid = AttentionBlock(channels - part, pattern="grid", matches=matches)

    def forward(
        self, features: Float[Tensor, "b c h w"], window: Affinity | None, grid: Affinity | None, *, keep: Keep
    ) -> tuple[Float[Tensor, "b c h w"], Affinity, Affinity]:
        features = self.local(features)
        attended, window = self.window(features[:, self.part :], window, keep=keep)
        attended, grid = self.grid(attended, grid, keep=keep)
        return torch.cat((attended, features[:, : self.part]), dim=1), window, grid


class LocalBlock(nn.Module):
    """1x1 convolution, depthwise 3x3, a gate per channel, 1x1 convolution, and a skip around all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 1)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.gate = ChannelGate(channels)
        self.last = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return features + self.last(self.gate(F.gelu(self.depthwise(F.gelu(self.first(features))))))


class ChannelGate(nn.Module):
    """Each channel times a sigmoid made of the means of all channels (squeeze and excitation)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // 4, bias=False)
        self.excite = nn.Linear(channels // 4, channels, bias=False)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        gate = torch.sigmoid(self.excite(F.silu(self.squeeze(features.mean(dim=(2, 3))))))
        return features * gate[:, :, None, None]


class AttentionBlock(nn.Module):
    """Window or grid attention, then a gated feed-forward (SLA, SGA)."""

    def __init__(self, channels: int, *, pattern: Pattern, matches: bool) -> None:
        super().__init__()
        kind = {"window": SharedWindow, "grid": SharedGrid}[pattern]
        operator = kind(channels, side=SIDE) if matches else None
        self.attention = SharedWindowAttention(channels, operator)
        self.feed_forward = GatedFeedForward(channels)

    def forward(
        self, features: Float[Tensor, "b c h w"], affinity: Affinity | None, *, keep: Keep
    ) -> tuple[Float[Tensor, "b c h w"], Affinity]:
        features, affinity = self.attention(features, affinity, keep=keep)
        return self.feed_forward(features), affinity


class ChannelBlock(nn.Module):
    """Channel attention with a norm before and a skip around it, then a gated feed-forward (half of BlockC)."""

    def __init__(self, channels: int, *, pattern: Pattern) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.attention = ChannelAttention(channels, pattern=pattern, side=SIDE)
        self.feed_forward = GatedFeedForward(channels)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.feed_forward(features + self.attention(self.norm(features)))


class GatedFeedForward(nn.Module):
    """GELU of one half of the channels times the other half, after a 1x1 and a depthwise 3x3 convolution.

    With a norm before and a skip around all; no bias.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.expand = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels, bias=False)
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        gate, values = self.depthwise(self.expand(self.norm(features))).chunk(2, dim=1)
        return features + self.project(F.gelu(gate) * values)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        # Written out, because F.layer_norm rounds differently: published results are repeated to the bit.
        precise = features.to(matching_dtype(features.dtype))
        centred = precise - precise.mean(1, keepdim=True)
        normed = centred / (centred.square().mean(1, keepdim=True) + CHANNEL_NORM_EPS).sqrt()
        return (self.weight[:, None, None] * normed + self.bias[:, None, None]).to(features.dtype)


class SpatialGate(nn.Module):
    """Each value times a sigmoid made of a coarse view of the whole map (ESA); at least 15 pixels a side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = max(channels // 4, 16)
        self.reduce = nn.Conv2d(channels, width, 1)
        self.direct = nn.Conv2d(width, width, 1)
        self.halve = nn.Conv2d(width, width, 3, stride=2)
        self.coarse = nn.Conv2d(width, width, 3, padding=1)
        self.expand = nn.Conv2d(width, channels, 1)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        reduced = self.reduce(features)
        coarse = self.coarse(F.max_pool2d(self.halve(reduced), 7, stride=3))
        coarse = F.interpolate(coarse, size=features.shape[2:], mode="bilinear", align_corners=False)
        return features * torch.sigmoid(self.expand(coarse + self.direct(reduced)))


def _padded(side: int) -> int:
    """The next multiple of `SIDE`, and no less than `SMALLEST_SIDE`. Without a comparison, and visibly two windows, as
    a side may be a symbol."""
    more = (side - 1) // SIDE
    return SMALLEST_SIDE + SIDE * (more * more // (more + 1))
