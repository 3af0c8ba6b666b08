"""PFT: a transformer in windows whose attention narrows: each layer multiplies its weights with those of an earlier one
and keeps fewer keys.

Source: Long et al., "Progressive Focused Transformer for Single Image Super-Resolution", CVPR 2025, arXiv 2503.20337.
"""

from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.attention.affinity import map_size, to_map, to_tokens
from nlsr.attention.focused_window import FocusedAffinity, FocusedWindow
from nlsr.errors import ShapeError
from nlsr.networks.feed_forward import ConvFeedForward
from nlsr.networks.network import Collect
from nlsr.networks.window_transformer import Upsampler, WindowTransformer

SHARED_BIAS = 100
"""Up to so many channels all heads have one bias, as published."""

State = tuple[FocusedAffinity | None, FocusedAffinity | None]
"""What was kept last by layers with unshifted and with shifted windows."""


@dataclass(frozen=True)
class PFTConfig:
    """Sizes of a PFT; the defaults are those of the published light one."""

    scale: int
    channels: int = 52
    depths: tuple[int, ...] = (2, 4, 6, 6, 6)
    """Layers of each stage."""
    heads: int = 4
    window_size: int = 32
    num_keys: tuple[int, ...] = (1024,) * 2 + (256,) * 4 + (128,) * 6 + (64,) * 6 + (32,) * 6
    """Keys that each layer keeps for a position; never more than the layer before."""
    hidden: int = 52
    """Hidden channels of the feed-forwards."""
    kernel_size: int = 7
    """Kernel size of the depthwise convolutions."""
    upsampler: Upsampler = "direct"


def pft_light(scale: int) -> PFTConfig:
    """The published light network: 775,532, 782,567 and 792,416 parameters at x2, x3 and x4."""
    return PFTConfig(scale)


def pft(scale: int) -> PFTConfig:
    """The published large network: 19.6 to 19.8 million parameters."""
    return PFTConfig(
        scale,
        channels=240,
        depths=(4, 4, 4, 6, 6, 6),
        heads=6,
        num_keys=(1024,) * 4 + (256,) * 4 + (128,) * 4 + (64,) * 6 + (32,) * 6 + (16,) * 6,
        hidden=480,
        upsampler="classical",
    )


class PFT(WindowTransformer):
    """Progressive Focused Transformer.

    The affinities of a trace are those of each layer in turn.
    """

    config: PFTConfig

    def __init__(self, config: PFTConfig) -> None:
        """Raises: ShapeError for another scale than 2, 3 or 4, or if sizes do not fit each other."""
        keys = config.num_keys
        if len(keys) < sum(config.depths) or any(a < b for a, b in pairwise(keys)):
            raise ShapeError(f"expected num_keys for {sum(config.depths)} layers that never grow, got {keys}")
        super().__init__(config)

    def _stage(self, index: int) -> nn.Module:
        return Stage(self.config, index)

    def _refine(self, features: Float[Tensor, "b c h w"], *, collect: Collect) -> Float[Tensor, "b c h w"]:
        state: State = None, None
        for stage in self.stages:
            features, state = stage(features, state, collect=collect)
        return features

    def bytes_per_pixel(self) -> int:
        """What layers with unshifted and with shifted windows keep at most, and the weights of every key
        of a window that the first layers make on their way to it; measured at 96x96."""
        config = self.config
        keys = min(config.num_keys[0], config.window_size**2)
        return 4 * (5 * config.heads * keys + 60 * config.channels)


class Stage(nn.Module):
    """Layers, every other one with shifted windows, a convolution, and a skip around all."""

    def __init__(self, config: PFTConfig, index: int) -> None:
        super().__init__()
        first = sum(config.depths[:index])
        self.layers = nn.ModuleList(
            Layer(config, config.num_keys[first + number], shifted=number % 2 == 1)
            for number in range(config.depths[index])
        )
        self.fuse = nn.Conv2d(config.channels, config.channels, 3, padding=1)

    def forward(
        self, features: Float[Tensor, "b c h w"], state: State = (None, None), *, collect: Collect
    ) -> tuple[Float[Tensor, "b c h w"], State]:
        """Returns what the last layers kept, too."""
        refined, (unshifted, shifted) = features, state
        for number, layer in enumerate(self.layers):
            if number % 2:
                refined, shifted = layer(refined, shifted, collect=collect)
            else:
                refined, unshifted = layer(refined, unshifted, collect=collect)
        return features + self.fuse(refined), (unshifted, shifted)


class Layer(nn.Module):
    """Focused attention in windows, to which a depthwise convolution of the values is added, and a feed-forward."""

    def __init__(self, config: PFTConfig, num_keys: int, *, shifted: bool) -> None:
        super().__init__()
        channels, size = config.channels, config.kernel_size
        self.norm = nn.LayerNorm(channels)
        self.embed = nn.Linear(channels, 3 * channels)
        self.place = nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels)
        self.windows = FocusedWindow(
            channels,
            heads=config.heads,
            window_size=config.window_size,
            shifted=shifted,
            shared_bias=channels <= SHARED_BIAS,
            embeds=False,
            num_keys=num_keys,
        )
        self.project_windows = nn.Linear(channels, channels)
        self.feed_forward = ConvFeedForward(channels, config.hidden, kernel_size=size)

    def forward(
        self, features: Float[Tensor, "b c h w"], before: FocusedAffinity | None, *, collect: Collect
    ) -> tuple[Float[Tensor, "b c h w"], FocusedAffinity]:
        """Returns what was kept, too."""
        size = map_size(features)
        query, key, values = self.embed(self.norm(to_tokens(features))).chunk(3, dim=-1)
        kept = self.windows.match_embedded(query, key, *size, before=before)
        collect(kept)
        placed = to_tokens(F.gelu(self.place(to_map(values, *size))))
        refined = self.project_windows(kept.aggregate(values) + placed)
        return self.feed_forward(features + to_map(refined, *size)), kept
