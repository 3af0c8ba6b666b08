"""SMFANet: features are modulated by a map pooled eight times smaller, beside a local branch; no affinity.

Source: Zheng et al., "SMFANet: A Lightweight Self-Modulation Feature Aggregation Network for Efficient Image
Super-Resolution", ECCV 2024.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.attention import Keep
from nlsr.attention.streamed import in_graph
from nlsr.networks.network import Collect, Network, NetworkDraws
from nlsr.networks.parts import DirectUpsampler, check_low_res

POOLING = 8
"""Side of the squares that one cell of the pooled map stands for."""


@dataclass(frozen=True)
class SMFANetConfig:
    """Sizes of an SMFANet; the defaults are those of the published small network."""

    scale: int
    channels: int = 36
    num_blocks: int = 8
    expansion: int = 2
    """The hidden maps of each feed-forward part have expansion * channels entries."""


def smfanet(scale: int) -> SMFANetConfig:
    """The published small network: 185,628, 190,503 and 197,328 parameters at x2, x3 and x4."""
    return SMFANetConfig(scale)


def smfanet_plus(scale: int) -> SMFANetConfig:
    """The published large network: 480,300, 486,795 and 495,888 parameters at x2, x3 and x4."""
    return SMFANetConfig(scale, channels=48, num_blocks=12)


class SMFANet(Network):
    """Self-Modulation Feature Aggregation Network."""

    config: SMFANetConfig

    def __init__(self, config: SMFANetConfig) -> None:
        super().__init__(config)
        self.head = nn.Conv2d(3, config.channels, 3, padding=1)
        self.blocks = nn.Sequential(*(ModulationBlock(config) for _ in range(config.num_blocks)))
        self.upsample = DirectUpsampler(config.channels, config.scale)

    def _upscale(
        self, low_res: Float[Tensor, "b 3 h w"], *, draws: NetworkDraws | None, keep: Keep, collect: Collect
    ) -> Float[Tensor, "b 3 sh sw"]:
        check_low_res(low_res)
        shallow = self.head(low_res)
        return self.upsample(shallow + self.blocks(shallow))

    def bytes_per_pixel(self) -> int:
        """The wide maps of the local branch, or what the upsampler makes; measured, between runs it
        varies by a fifth."""
        return 4 * max(16 * self.config.channels, 6 * self.config.scale**2 + 2 * self.config.channels)


class ModulationBlock(nn.Module):
    """Self-modulation, then a feed-forward part, each of normalised features and each with a skip."""

    def __init__(self, config: SMFANetConfig) -> None:
        super().__init__()
        self.modulation = SelfModulation(config.channels)
        self.feed_forward = PartialFeedForward(config.channels, config.expansion)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        features = features + self.modulation(_normalize(features))
        return features + self.feed_forward(_normalize(features))


class SelfModulation(nn.Module):
    """SMFA: a pooled map and the global variance multiply half of the features; the other half sees neighbours."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.split = nn.Conv2d(channels, 2 * channels, 1)
        self.pooled = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pooled_share = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.variance_share = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.modulate = nn.Conv2d(channels, channels, 1)
        self.local_depthwise = nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=channels)
        self.local_mix = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.local_join = nn.Conv2d(2 * channels, channels, 1)
        self.join = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        half = self.split.out_channels // 2
        local, modulated = _in_parts(self.split, features, (half, half))
        modulated = modulated * self._modulation(modulated)
        local = self.local_join(F.gelu(self._mixed(local)))
        return self.join(modulated + local)

    def _mixed(self, local: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ h w"]:
        """Two maps of each channel, mixed. In a graph the first of all channels and the second have convolutions of
        their own: OpenVINO has a fast depthwise convolution for one map of each channel alone."""
        depthwise, mix = self.local_depthwise, self.local_mix
        if not in_graph():
            return mix(depthwise(local))
        assert depthwise.bias is not None
        parts = []
        for start, bias in ((0, mix.bias), (1, None)):
            of_each = slice(start, None, 2)
            maps = F.conv2d(local, depthwise.weight[of_each], depthwise.bias[of_each], padding=1, groups=local.shape[1])
            parts.append(F.conv2d(maps, mix.weight[:, of_each], bias))
        return parts[0] + parts[1]

    def _modulation(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        height, width = features.shape[-2:]
        cells = _cells(height), _cells(width)
        pooled = self.pooled(_pool(features, cells))
        variance = _variance(features)
        small = F.gelu(self.modulate(self.pooled_share * pooled + self.variance_share * variance))
        return _enlarge(small, (height, width))


class PartialFeedForward(nn.Module):
    """PCFN: a quarter of the hidden maps pass a 3x3 convolution, the others stay."""

    def __init__(self, channels: int, expansion: int = 2) -> None:
        super().__init__()
        hidden = expansion * channels
        self.partial = hidden // 4
        self.widen = nn.Conv2d(channels, hidden, 1)
        self.convolve = nn.Conv2d(self.partial, self.partial, 3, padding=1)
        self.join = nn.Conv2d(hidden, channels, 1)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        sizes = self.partial, self.widen.out_channels - self.partial
        first, others = (F.gelu(part) for part in _in_parts(self.widen, features, sizes))
        return self.join(torch.cat((F.gelu(self.convolve(first)), others), dim=1))


def _normalize(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Unit length at each position. A graph has no expanded norm, for which OpenVINO would reorder all features."""
    if not in_graph():
        return F.normalize(features)
    return features / torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp_min(1e-12)


def _in_parts(
    convolution: nn.Conv2d, features: Float[Tensor, "b c h w"], sizes: tuple[int, ...]
) -> tuple[Float[Tensor, "b _ h w"], ...]:
    """The channels that a convolution makes, in parts of these sizes. In a graph each part has a convolution of its
    own: OpenVINO took half as long to divide channels as for the convolutions."""
    if not in_graph():
        return convolution(features).split(sizes, dim=1)
    assert convolution.bias is not None
    weights, biases = convolution.weight.split(sizes), convolution.bias.split(sizes)
    return tuple(F.conv2d(features, weight, bias) for weight, bias in zip(weights, biases, strict=True))


def _cells(side: int) -> int:
    """The cells that a side is pooled to: side / POOLING, rounded down, but at least one. Without a comparison, and
    visibly above zero, as a side may be a symbol."""
    whole = side // POOLING
    return 1 + whole * whole // (whole + 1)


def _pool(features: Float[Tensor, "b c h w"], cells: tuple[int, int]) -> Float[Tensor, "b c y x"]:
    """The maximum in each cell; where the side is no multiple of the cells, neighbours overlap. A graph takes each cell
    for two runs of positions that have one length, whose maxima OpenVINO computes without reordering the features."""
    if not in_graph():
        return F.adaptive_max_pool2d(features, cells)
    for axis, count in zip((2, 3), cells, strict=True):
        kernel = (POOLING, 1) if axis == 2 else (1, POOLING)
        # What is added at the border is never a maximum. It lets a side be shorter than a run.
        padding = (POOLING // 2, 0) if axis == 2 else (0, POOLING // 2)
        side = features.shape[axis]
        runs = F.max_pool2d(features, kernel, stride=1, padding=padding)
        first, last = _runs(side, count, features.device)
        features = torch.maximum(runs.index_select(axis, first), runs.index_select(axis, last))
    return features


def _runs(side: int, cells: int, device: torch.device) -> tuple[Int[Tensor, " cells"], Int[Tensor, " cells"]]:
    """Which of all runs of `POOLING` positions are the first and the last in each cell, where all runs begin half of a
    run before the side. A cell has fewer positions than two runs; the only one of a shorter side lies in both."""
    cell = torch.arange(cells, device=device)
    first, end = cell * side // cells, ((cell + 1) * side + cells - 1) // cells
    half = POOLING // 2
    return (first + half).clamp_max(side), (end - half).clamp_min(0)


def _enlarge(small: Float[Tensor, "b c y x"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """To a size, by nearest neighbours."""
    if not in_graph():
        return F.interpolate(small, size=size, mode="nearest")
    for axis in (3, 2):
        small = small.index_select(axis, _nearest(small.shape[axis], size[axis - 2], small.device))
    return small


def _nearest(cells: int, side: int, device: torch.device) -> Int[Tensor, " side"]:
    """The cell that torch takes for each position, whose rounding in float32 is part of it."""
    ratio = torch.full((1,), cells, dtype=torch.float32, device=device) / side
    return (torch.arange(side, device=device) * ratio).long().clamp_max(cells - 1)


def _variance(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
    """Unbiased variance over all positions; 0 where there is one position only."""
    if in_graph():
        deviations = features - features.mean(dim=(-2, -1), keepdim=True)
        number = torch.full((1,), features.shape[-2] * features.shape[-1], dtype=features.dtype, device=features.device)
        return deviations.square().sum(dim=(-2, -1), keepdim=True) / (number - 1).clamp_min(1)
    if features.shape[-2:].numel() == 1:
        return torch.zeros_like(features)
    return features.var(dim=(-2, -1), keepdim=True)
