"""CSNLN: one cell, applied again and again, that makes high-res features of what in-scale attention, cross-scale
attention and the features themselves say. No other upsampler, no global skip.

Source: Mei et al., "Image Super-Resolution with Cross-Scale Non-Local Attention and Exhaustive Self-Exemplars Mining",
CVPR 2020, arXiv 2006.01424.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nlsr.attention.affinity import Affinity, Keep, Operator
from nlsr.attention.cross_scale import CrossScale, CrossScaleAttention, pad_to_multiple
from nlsr.attention.dense import nonlocal_attention
from nlsr.networks.configs import settings_for
from nlsr.networks.network import Collect, Network, NetworkDraws
from nlsr.networks.parts import check_low_res, factors, mean_colour

KERNELS = {2: (6, 2), 3: (9, 3), 4: (8, 2)}
"""Factor -> size and padding of the convolutions that change the size of a map."""


@dataclass(frozen=True)
class CSNLNConfig:
    """Sizes of a CSNLN; the defaults are the published ones."""

    scale: int
    channels: int = 128
    recurrences: int = 12
    reduction: int = 2
    """The embeddings that are matched have channels / reduction entries."""
    softmax_scale: float = 10.0
    """Factor of the scores of the cross-scale matching."""
    overlap_average: bool = False
    """Pasted patches are divided by how many of them overlap, instead of by 6 everywhere."""


def csnln(scale: int) -> CSNLNConfig:
    """The published network: 3.06, 6.01 and 6.57 million parameters at x2, x3 and x4."""
    return CSNLNConfig(scale)


class CSNLN(Network):
    """Cross-Scale Non-Local Network.

    The affinities of a trace are those of each recurrence in turn: in-scale, cross-scale, and at x4 the same again at
    twice the size. They belong to the image padded to even sides, at x3 to multiples of 3.
    """

    config: CSNLNConfig

    def __init__(self, config: CSNLNConfig) -> None:
        """Raises: ShapeError for another scale than 2, 3 or 4, or if sizes do not fit each other."""
        super().__init__(config)
        channels = config.channels
        self.head = nn.Sequential(_convolve(3, channels), _convolve(channels, channels))
        self.cell = SelfExemplarCell(config)
        self.tail = nn.Conv2d(config.recurrences * channels, 3, 3, padding=1)

    def _upscale(
        self, low_res: Float[Tensor, "b 3 h w"], *, draws: NetworkDraws | None, keep: Keep, collect: Collect
    ) -> Float[Tensor, "b 3 sh sw"]:
        """Nothing is drawn, and whatever `keep` says, weights are recomputed: they would be quadratic in memory."""
        check_low_res(low_res)
        height, width = (self.scale * side for side in low_res.shape[2:])
        mean = mean_colour(low_res)
        features = self.head(pad_to_multiple(low_res - mean, factors(self.scale)[0]))
        upscaled = mean if self.tail.bias is None else mean + self.tail.bias.view(1, 3, 1, 1)
        for index in range(self.config.recurrences):
            if torch.is_grad_enabled():  # a recurrence is computed again in backward: twelve would fill a GPU
                features, colours, matched = checkpoint(
                    self._recur, features, index, use_reentrant=False, preserve_rng_state=False
                )
            else:
                features, colours, matched = self._recur(features, index)
            upscaled = upscaled + colours
            for affinity in matched:
                collect(affinity)
            del matched, affinity  # or they would live through the next recurrence
        return upscaled[..., :height, :width]

    def _recur(self, features: Tensor, index: int) -> tuple[Tensor, Tensor, list[Affinity]]:
        """One recurrence, and its share of the image: the tail is a convolution of all recurrences' high-res features,
        which are never held together."""
        features, high_res, affinities = self.cell(features)
        channels = self.config.channels
        weight = self.tail.weight[:, index * channels : (index + 1) * channels]
        return features, F.conv2d(high_res, weight, padding=1), affinities

    def bytes_per_pixel(self) -> int:
        """Feature maps alive at once in a recurrence, beside the blocks of the attentions (some 64 MiB); measured."""
        return 4 * self.config.channels * (6 + 7 * self.scale**2)

    def operators(self) -> list[Operator]:
        """Those of the cell, once for each recurrence."""
        return super().operators() * self.config.recurrences


class SelfExemplarCell(nn.Module):
    """Self-exemplars mining: low-res features to high-res features, and back to the next low-res features.

    At x4 two stages of x2 follow each other; both are corrected against the same low-res features.
    """

    def __init__(self, config: CSNLNConfig) -> None:
        super().__init__()
        channels = config.channels
        self.stages = nn.ModuleList()
        enlarged = 1
        for factor in factors(config.scale):
            enlarged *= factor
            self.stages.append(Stage(config, factor, enlarged))
        self.down = _shrink(channels, enlarged)
        self.post = _convolve(channels, channels)

    def forward(
        self, features: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c sh sw"], list[Affinity]]:
        """The next low-res features, the high-res features, and the affinities; sides are even, at x3 multiples of
        3."""
        high_res, affinities = features, []
        for stage in self.stages:
            high_res, matched = stage(high_res, features)
            affinities += matched
        return self.post(self.down(high_res)), high_res, affinities


class Stage(nn.Module):
    """Enlarges by fusing three sources, and corrects what, made small again, differs from the low-res features."""

    def __init__(self, config: CSNLNConfig, factor: int, enlarged: int) -> None:
        """
        Args:
            factor: how many times larger this stage makes the map.
            enlarged: how much larger than low-res its result is.
        """
        super().__init__()
        self.projection = MultiSourceProjection(config, factor)
        self.down = _shrink(config.channels, enlarged)
        self.up = _enlarge(config.channels, enlarged)

    def forward(
        self, features: Float[Tensor, "b c h w"], low_res_features: Float[Tensor, "b c low_h low_w"]
    ) -> tuple[Float[Tensor, "b c high_h high_w"], list[Affinity]]:
        high_res, affinities = self.projection(features)
        return high_res + self.up(low_res_features - self.down(high_res)), affinities


class MultiSourceProjection(nn.Module):
    """Fuses what cross-scale attention draws with what in-scale attention draws, enlarged by a deconvolution."""

    def __init__(self, config: CSNLNConfig, factor: int) -> None:
        super().__init__()
        channels = config.channels
        self.in_scale = nonlocal_attention(channels, reduction=config.reduction, input_scale=0.0)
        self.up = _enlarge(channels, factor)
        operator = CrossScale(channels, factor, **settings_for(CrossScale, config))
        self.cross_scale = CrossScaleAttention(channels, operator)
        self.refine = nn.Sequential(_convolve(channels, channels), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, features: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c fh fw"], list[Affinity]]:
        in_scale, in_scale_affinity = self.in_scale(features)
        cross_scale, cross_scale_affinity = self.cross_scale.attend(features)
        fused = cross_scale + self.refine(cross_scale - self.up(in_scale))
        return fused, [in_scale_affinity, cross_scale_affinity]


def _convolve(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1), nn.PReLU())


def _shrink(channels: int, factor: int) -> nn.Sequential:
    size, padding = KERNELS[factor]
    return nn.Sequential(nn.Conv2d(channels, channels, size, stride=factor, padding=padding), nn.PReLU())


def _enlarge(channels: int, factor: int) -> nn.Sequential:
    size, padding = KERNELS[factor]
    return nn.Sequential(nn.ConvTranspose2d(channels, channels, size, stride=factor, padding=padding), nn.PReLU())
