"""CATANet: each block sorts positions by learned centres and lets them draw on those of their kind, then on their
neighbours in windows that overlap.

Source: Liu et al., "CATANet: Efficient Content-Aware Token Aggregation for Lightweight Image Super-Resolution",
CVPR 2025, arXiv 2503.06896. Sharing what the first block matched with all others is ours.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.attention import Keep
from nlsr.attention.overlapping_window import Average, OverlappingWindow, OverlappingWindowAttention
from nlsr.attention.token_aggregation import Aggregation, TokenAggregation, TokenAggregationAttention
from nlsr.errors import ShapeError
from nlsr.networks.feed_forward import ConvFeedForward
from nlsr.networks.network import Collect, Network, NetworkDraws
from nlsr.networks.parts import check_low_res

SLOPE = 0.1
"""Negative slope of the leaky ReLU behind each enlargement."""
FACTORS = {1: (), 2: (2,), 3: (3,), 4: (2, 2)}
"""Scale -> factors of the enlargements."""


@dataclass(frozen=True)
class CATANetConfig:
    """Sizes of a CATANet; the defaults are the published ones. Of what differs from block to block there is one number
    per block."""

    scale: int
    channels: int = 40
    width: int = 36
    """Width of queries and keys, of all heads together."""
    hidden: int = 96
    """Hidden channels of the feed-forwards."""
    heads: int = 4
    num_centres: tuple[int, ...] = (16, 32, 64, 128, 16, 32, 64, 128)
    chunk_sizes: tuple[int, ...] = (256, 128, 64, 32, 256, 128, 64, 32)
    """Sorted positions of a chunk; each draws on two chunks."""
    num_steps: tuple[int, ...] = (5, 5, 5, 5, 5, 5, 5, 5)
    """Steps of k-means for each batch, in training."""
    window_sizes: tuple[int, ...] = (16, 20, 24, 28, 16, 20, 24, 28)
    centre_decay: float = 0.999
    share: bool = False
    """The first block sorts and matches positions, and the others reuse its affinities; all have its sizes."""
    overlap_average: Average = "coverage"
    """What windows give a position is divided by how many they are, or as published."""


def catanet(scale: int) -> CATANetConfig:
    """The published network: 477,435, 549,635 and 535,195 parameters at x2, x3 and x4."""
    return CATANetConfig(scale)


def catanet_shared(scale: int) -> CATANetConfig:
    """The same with one grouping of positions for all blocks; ours."""
    return CATANetConfig(scale, num_centres=(64,) * 8, chunk_sizes=(64,) * 8, share=True)


class CATANet(Network):
    """Content-Aware Token Aggregation Network.

    The affinities of a trace are those of each block in turn: of sorted positions, unless it is shared, and of windows.
    """

    config: CATANetConfig

    def __init__(self, config: CATANetConfig) -> None:
        """Raises: ShapeError for another scale than 1, 2, 3 or 4, and if sizes do not fit each other."""
        super().__init__(config)
        _check(config)
        channels = config.channels
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(Block(config, index) for index in range(len(config.num_centres)))
        self.upsample = nn.Sequential(*(Enlarge(channels, factor) for factor in FACTORS[config.scale]))
        self.tail = nn.Conv2d(channels, 3, 3, padding=1)

    def _upscale(
        self, low_res: Float[Tensor, "b 3 h w"], *, draws: NetworkDraws | None, keep: Keep, collect: Collect
    ) -> Float[Tensor, "b 3 sh sw"]:
        """No weights are stored, not even those that are shared: in all blocks together a fused kernel makes them anew
        in the time that storing and reading them takes, and they are four times as large as queries and keys."""
        check_low_res(low_res)
        shallow = deep = self.head(low_res)
        matched: Aggregation | None = None
        for block in self.blocks:
            deep, matched = block(deep, matched, collect=collect)
        matched = None
        upscaled = self.tail(self.upsample(deep + shallow))
        if self.scale > 1:
            low_res = F.interpolate(low_res, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return upscaled + low_res

    def bytes_per_pixel(self) -> int:
        """The greater of two: tokens slot by slot with the maps around them and the queries and keys that are shared,
        and what enlarging makes; measured at x2 and x4, where it varies between runs by a sixth."""
        config = self.config
        slots = 38 if config.share else 30
        return 2 * config.channels * max(2 * slots, 7 * config.scale**2)


class Block(nn.Module):
    """Attention among positions of a kind, attention among neighbours, each with a feed-forward; a convolution, and a
    skip around all."""

    def __init__(self, config: CATANetConfig, index: int) -> None:
        super().__init__()
        channels, sizes = config.channels, {"width": config.width, "heads": config.heads}
        operator = None
        if index == 0 or not config.share:
            operator = TokenAggregation(
                channels,
                **sizes,
                num_centres=config.num_centres[index],
                chunk_size=config.chunk_sizes[index],
                num_steps=config.num_steps[index],
                centre_decay=config.centre_decay,
            )
        self.aggregation = TokenAggregationAttention(channels, operator)
        self.first_feed_forward = ConvFeedForward(channels, config.hidden)
        window = OverlappingWindow(
            channels, **sizes, window_size=config.window_sizes[index], average=config.overlap_average
        )
        self.local = OverlappingWindowAttention(channels, window)
        self.second_feed_forward = ConvFeedForward(channels, config.hidden)
        self.fuse = nn.Conv2d(channels, channels, 3, padding=1)
        self.share = config.share

    def forward(
        self, features: Float[Tensor, "b c h w"], matched: Aggregation | None, *, collect: Collect
    ) -> tuple[Float[Tensor, "b c h w"], Aggregation | None]:
        """Returns what was matched, too, where it is shared."""
        refined, used = self.aggregation(features, matched, keep="recomputed")
        if matched is None:
            collect(used.positions)
        matched = used if self.share else None
        del used  # or it would live as long as the windows
        refined, window = self.local(self.first_feed_forward(refined), keep="recomputed")
        collect(window)
        del window
        return features + self.fuse(self.second_feed_forward(refined)), matched


class Enlarge(nn.Module):
    """A convolution, a pixel shuffle, a leaky ReLU."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, factor**2 * channels, 3, padding=1)
        self.factor = factor

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c fh fw"]:
        return F.leaky_relu(F.pixel_shuffle(self.conv(features), self.factor), SLOPE)


def _check(config: CATANetConfig) -> None:
    if config.scale not in FACTORS:
        raise ShapeError(f"expected a scale of 1, 2, 3 or 4, got {config.scale}")
    per_block = {name: getattr(config, name) for name in ("num_centres", "chunk_sizes", "num_steps", "window_sizes")}
    lengths = {name: len(sizes) for name, sizes in per_block.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise ShapeError(f"expected one number for each block of everything, got {counts}")
    if config.share and max(len(set(config.num_centres)), len(set(config.chunk_sizes))) > 1:
        raise ShapeError(
            "with share, all blocks have the centres and chunks of the first: expected one number in num_centres and "
            f"one in chunk_sizes, got {config.num_centres} and {config.chunk_sizes}"
        )
