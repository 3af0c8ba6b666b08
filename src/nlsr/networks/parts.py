"""What several networks really share: residual block, upsampler, the mean colour of the training images."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.errors import ShapeError

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean RGB of DIV2K in [0, 1], subtracted from the input by every network that descends from EDSR."""


class ResidualBlock(nn.Module):
    """x + residual_scale * conv(ReLU(conv(x))), both convolutions 3x3."""

    def __init__(self, channels: int, *, residual_scale: float = 1.0) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.residual_scale = residual_scale

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        refined = self.second(F.relu(self.first(features), inplace=True))
        return features.add(refined, alpha=self.residual_scale)


class EdsrUpsampler(nn.Sequential):
    """Enlarge features by 2, 3 or 4 with convolutions and pixel shuffles (x4 in two steps), then one conv to RGB."""

    def __init__(self, channels: int, scale: int) -> None:
        layers: list[nn.Module] = []
        for factor in factors(scale):
            layers += [nn.Conv2d(channels, factor**2 * channels, 3, padding=1), nn.PixelShuffle(factor)]
        super().__init__(*layers, nn.Conv2d(channels, 3, 3, padding=1))


def upsampling_values(channels: int, scale: int) -> int:
    """What upscaling by an `EdsrUpsampler` holds at once, in numbers per low-res pixel: the last convolution's result
    before and after its pixels are shuffled, beside maps of the features; measured."""
    return 2 * channels * scale**2 + 6 * channels


class DirectUpsampler(nn.Sequential):
    """One convolution to scale**2 RGB values per pixel, and a pixel shuffle: no arithmetic at high-res."""

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__(nn.Conv2d(channels, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))


def mean_colour(like: Tensor) -> Float[Tensor, "1 3 1 1"]:
    """`DIV2K_MEAN` in the dtype and on the device of a tensor."""
    return torch.tensor(DIV2K_MEAN, dtype=like.dtype, device=like.device).view(1, 3, 1, 1)


def check_low_res(low_res: Tensor) -> None:
    """Raises: ShapeError unless the shape is (batch, 3, height, width) with pixels in it."""
    if low_res.ndim != 4 or low_res.shape[1] != 3 or 0 in low_res.shape:
        hint = "; add a batch axis with image[None]" if low_res.ndim == 3 else ""
        raise ShapeError(f"expected low_res (batch, 3, height, width), got {tuple(low_res.shape)}{hint}")


def factors(scale: int) -> tuple[int, ...]:
    """The factors by which features are enlarged in turn. Raises: ShapeError for another scale than 2, 3 or 4."""
    if scale not in (2, 3, 4):
        raise ShapeError(f"expected a scale of 2, 3 or 4, got {scale}")
    return (2, 2) if scale == 4 else (scale,)
