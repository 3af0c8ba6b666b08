"""ATD: a transformer whose positions draw on a dictionary of tokens, on positions of their category, and on their
neighbours in windows.

Source: Zhang et al., "Transcending the Limit of Local Window: Advanced Super-Resolution Transformer with Adaptive Token
Dictionary", CVPR 2024, arXiv 2401.08209.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nlsr.attention.affinity import map_size, to_map, to_tokens
from nlsr.attention.shifted_window import ShiftedWindow
from nlsr.attention.token_dictionary import Refinement, TokenCategories, TokenDictionary
from nlsr.errors import ShapeError
from nlsr.networks.feed_forward import ConvFeedForward
from nlsr.networks.network import Collect
from nlsr.networks.window_transformer import Upsampler, WindowTransformer


@dataclass(frozen=True)
class ATDConfig:
    """Sizes of an ATD; the defaults are those of the published light one."""

    scale: int
    channels: int = 48
    depths: tuple[int, ...] = (6, 6, 6, 6)
    """Layers of each stage."""
    heads: tuple[int, ...] = (4, 4, 4, 4)
    """Heads of each stage."""
    window_size: int = 16
    chunk_size: int = 128
    """Positions of a category that draw on each other."""
    num_tokens: int = 64
    """Tokens in the dictionary of each stage."""
    token_width: int = 8
    """Width of queries and keys between positions and the dictionary."""
    hidden: int = 48
    """Hidden channels of the feed-forwards."""
    kernel_size: int = 7
    """Kernel size of their depthwise convolution."""
    upsampler: Upsampler = "direct"


def atd_light(scale: int) -> ATDConfig:
    """The published light network: 753,204, 759,699 and 768,792 parameters at x2, x3 and x4."""
    return ATDConfig(scale)


def atd(scale: int) -> ATDConfig:
    """The published large network: 20.1 to 20.3 million parameters."""
    return ATDConfig(
        scale,
        channels=210,
        depths=(6,) * 6,
        heads=(6,) * 6,
        chunk_size=256,
        num_tokens=128,
        token_width=20,
        hidden=420,
        kernel_size=5,
        upsampler="classical",
    )


class ATD(WindowTransformer):
    """Adaptive Token Dictionary network.

    The affinities of a trace are those of each layer in turn: of categories, then of windows.
    """

    config: ATDConfig

    def __init__(self, config: ATDConfig) -> None:
        """Raises: ShapeError for another scale than 2, 3 or 4, or if sizes do not fit each other."""
        if len(config.heads) != len(config.depths):
            raise ShapeError(f"expected heads for {len(config.depths)} stages, got {config.heads}")
        super().__init__(config)

    def _stage(self, index: int) -> nn.Module:
        return Stage(self.config, index)

    def _refine(self, features: Float[Tensor, "b c h w"], *, collect: Collect) -> Float[Tensor, "b c h w"]:
        for stage in self.stages:
            features = stage(features, collect=collect)
        return features

    def bytes_per_pixel(self) -> int:
        """Queries, keys and values with what the three attentions make of them; measured."""
        return 4 * 29 * self.config.channels


class Stage(nn.Module):
    """Layers with a dictionary of their own that adapts from one to the next, a convolution, and a skip around all."""

    def __init__(self, config: ATDConfig, index: int) -> None:
        super().__init__()
        depth = config.depths[index]
        self.dictionary = nn.Parameter(torch.randn(config.num_tokens, config.channels))
        self.layers = nn.ModuleList(
            Layer(config, config.heads[index], shifted=number % 2 == 1, refines=number < depth - 1)
            for number in range(depth)
        )
        self.fuse = nn.Conv2d(config.channels, config.channels, 3, padding=1)

    def forward(self, features: Float[Tensor, "b c h w"], *, collect: Collect) -> Float[Tensor, "b c h w"]:
        refined, dictionary = features, self.dictionary.expand(features.shape[0], -1, -1)
        for layer in self.layers:
            refined, dictionary = layer(refined, dictionary, collect=collect)
        return features + self.fuse(refined)


class Layer(nn.Module):
    """Three attentions side by side, a feed-forward, and a step of the dictionary."""

    def __init__(self, config: ATDConfig, heads: int, *, shifted: bool, refines: bool) -> None:
        super().__init__()
        channels = config.channels
        self.norm = nn.LayerNorm(channels)
        self.embed = nn.Linear(channels, 3 * channels)
        self.dictionary = TokenDictionary(channels, config.num_tokens, config.token_width)
        self.categories = TokenCategories(channels, heads=heads, chunk_size=config.chunk_size, num_tokens=None)
        self.project_categories = nn.Linear(channels, channels)
        self.windows = ShiftedWindow(
            channels, heads=heads, window_size=config.window_size, shifted=shifted, embeds=False
        )
        self.project_windows = nn.Linear(channels, channels)
        self.feed_forward = ConvFeedForward(channels, config.hidden, kernel_size=config.kernel_size)
        self.refine = Refinement(config.num_tokens) if refines else None

    def forward(
        self, features: Float[Tensor, "b c h w"], dictionary: Float[Tensor, "b m c"], *, collect: Collect
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b m c"]]:
        """Returns the refined features and the dictionary for the next layer."""
        size = map_size(features)
        tokens = self.norm(to_tokens(features))
        query, key, values = self.embed(tokens).chunk(3, dim=-1)
        refined, drawn = self.dictionary(tokens, dictionary, size)
        categories = self.categories.match_labelled(drawn.categories(), query, key, *size, keep="recomputed")
        collect(categories)
        refined = refined + self.project_categories(categories.aggregate(values))
        del categories
        windows = self.windows.match_embedded(query, key, *size, keep="recomputed")
        collect(windows)
        refined = refined + self.project_windows(windows.aggregate(values))
        del windows, query, key, values
        features = self.feed_forward(features + to_map(refined, *size))
        if self.refine is not None:
            dictionary = self.refine(dictionary, drawn, to_tokens(features))
        return features, dictionary
