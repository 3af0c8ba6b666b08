"""PAN, Pixel Attention Network: small convolutions with a gate per pixel. The small network to beat; no affinity.

Source: Zhao et al., "Efficient Image Super-Resolution Using Pixel Attention", ECCVW 2020, arXiv 2010.01073.
"""

from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.attention import Keep, PixelAttention, PixelAttentionConv
from nlsr.attention.streamed import in_graph
from nlsr.networks.network import Collect, Network, NetworkDraws
from nlsr.networks.parts import check_low_res, factors

SLOPE = 0.2
"""Negative slope of every leaky ReLU."""


@dataclass(frozen=True)
class PANConfig:
    """Sizes of a PAN; the defaults are the published ones."""

    scale: int
    channels: int = 40
    upsampler_channels: int = 24
    num_blocks: int = 16


def pan(scale: int) -> PANConfig:
    """The published network: 261,403 parameters at x2 and x3, 272,419 at x4."""
    return PANConfig(scale)


class PAN(Network):
    """Pixel Attention Network."""

    config: PANConfig

    def __init__(self, config: PANConfig) -> None:
        """Raises: ShapeError for another scale than 2, 3 or 4."""
        super().__init__(config)
        channels, narrow = config.channels, config.upsampler_channels
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(SelfCalibratedBlock(channels) for _ in range(config.num_blocks)))
        self.fuse = nn.Conv2d(channels, channels, 3, padding=1)
        first, *others = factors(config.scale)
        self.upsample = nn.Sequential(Enlarge(channels, narrow, first), *(Enlarge(narrow, narrow, f) for f in others))
        self.tail = nn.Conv2d(narrow, 3, 3, padding=1)

    def _upscale(
        self, low_res: Float[Tensor, "b 3 h w"], *, draws: NetworkDraws | None, keep: Keep, collect: Collect
    ) -> Float[Tensor, "b 3 sh sw"]:
        check_low_res(low_res)
        shallow = self.head(low_res)
        deep = self.upsample(shallow + self.fuse(self.blocks(shallow)))
        if in_graph():
            return self._squares(deep, low_res)
        return self.tail(deep) + self._enlarged(low_res)

    def _enlarged(self, low_res: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 sh sw"]:
        return F.interpolate(low_res, scale_factor=self.scale, mode="bilinear", align_corners=False)

    def _squares(
        self, deep: Float[Tensor, "b c sh sw"], low_res: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b 3 sh sw"]:
        """The image, of squares of pixels: four at once fill the registers of a processor as three colours do not, and
        the bilinear enlargement is a convolution too where its weights are exact in half precision, which thirds are
        not."""
        *before, factor = factors(self.scale)
        weight = torch.stack([F.pad(self.tail.weight, shift) for shift in _shifts(factor)], dim=1).flatten(0, 1)
        assert self.tail.bias is not None
        squares = F.conv2d(deep, weight, self.tail.bias.repeat_interleave(factor**2), stride=factor, padding=1)
        if factor == 3:
            return F.pixel_shuffle(squares, factor) + self._enlarged(low_res)
        enlarged = F.conv2d(F.pad(low_res, (1, 1, 1, 1), mode="replicate"), bilinear(self.scale, factor).to(low_res))
        for earlier in before:
            enlarged = F.pixel_shuffle(enlarged, earlier)
        return F.pixel_shuffle(squares + enlarged, factor)

    def bytes_per_pixel(self) -> int:
        """Few maps before the upsampler, three and a half at once in it; measured."""
        return 4 * self.config.channels * 4 + 14 * self.config.upsampler_channels * self.scale**2


class SelfCalibratedBlock(nn.Module):
    """SC-PA: two narrow branches, one of them gated, joined by a 1x1 convolution. No bias but in the gate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.plain_in = nn.Conv2d(channels, half, 1, bias=False)
        self.plain = nn.Conv2d(half, half, 3, padding=1, bias=False)
        self.gated_in = nn.Conv2d(channels, half, 1, bias=False)
        self.gated = PixelAttentionConv(half)
        self.join = nn.Conv2d(2 * half, channels, 1, bias=False)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        plain = _activate(self.plain(_activate(self.plain_in(features))))
        gated = _activate(self.gated(_activate(self.gated_in(features))))
        return features + self.join(torch.cat((plain, gated), dim=1))


class Enlarge(nn.Module):
    """U-PA: nearest-neighbour enlargement, convolution, pixel attention, convolution."""

    def __init__(self, in_channels: int, channels: int, factor: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.attention = PixelAttention(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.factor = factor

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d fh fw"]:
        enlarged = self._enlarged(features)
        return _activate(self.second(_activate(self.attention(enlarged))))

    def _enlarged(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d fh fw"]:
        """A 3x3 convolution of squares of equal pixels. In a graph, where weights are known, the weights that fall on
        equal pixels are added first: 4 multiplications remain of 9 if the factor is 2."""
        if not in_graph():
            return self.first(F.interpolate(features, scale_factor=self.factor, mode="nearest"))
        added = torch.stack([F.pad(self.first.weight, shift) for shift in _shifts(self.factor)]).sum(0)
        backwards = added.transpose(0, 1).flip(2, 3)  # as a transposed convolution runs through its weights
        return F.conv_transpose2d(features, backwards, self.first.bias, stride=self.factor, padding=1)


def bilinear(scale: int, last: int) -> Float[Tensor, "outputs 3 3 3"]:
    """Weights of a convolution of RGB, continued by its border, that enlarges it bilinearly.

    Args:
        last: the factor of the last pixel shuffle; one before it does the rest.
    """
    distance = (torch.arange(scale) + 0.5) / scale - 0.5 - torch.arange(-1, 2)[:, None]  # of each neighbour
    along = (1 - distance.abs()).clamp(min=0)
    kernels = einsum(along, along, "i y, j x -> y x i j")
    kernels = rearrange(kernels, "(y1 y2) (x1 x2) i j -> (y2 x2 y1 x1) i j", y2=last, x2=last)
    return einsum(torch.eye(3), kernels, "c d, n i j -> c n d i j").flatten(0, 1)


def _shifts(factor: int) -> list[tuple[int, int, int, int]]:
    """How a kernel is padded to stand at each pixel of a square: row by row, (left, right, top, bottom)."""
    last = factor - 1
    return [(x, last - x, y, last - y) for y in range(factor) for x in range(factor)]


def _activate(features: Tensor) -> Tensor:
    return F.leaky_relu(features, SLOPE)
