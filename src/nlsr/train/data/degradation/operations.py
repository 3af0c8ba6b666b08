"""What happens to a picture on its way: blur, resize, noise, compression. Plain functions; draws are arguments.

None of them moves the picture: what is in the middle stays in the middle.
"""

import io
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from nlsr.images import resize
from nlsr.mirror import mirrored

ResizeKernel = Literal["area", "bilinear", "bicubic"]

WHITE = 255.0


def blur(image: Shaped[Tensor, "3 h w"], kernel: Float[Tensor, "k k"]) -> Float[Tensor, "3 h w"]:
    """Convolve with a kernel of odd size; borders are mirrored. Takes the same time for every kernel."""
    height, width = image.shape[1:]
    radius = kernel.shape[0] // 2
    rows, columns = (mirrored(-radius, side + radius, side) for side in (height, width))
    padded = image.float()[:, rows[:, None], columns]
    size = padded.shape[1:]
    spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(kernel, s=size)
    return torch.fft.irfft2(spectrum, s=size)[:, 2 * radius :, 2 * radius :].contiguous()


def resize_with(kernel: ResizeKernel, image: Shaped[Tensor, "3 h w"], size: tuple[int, int]) -> Shaped[Tensor, "3 _ _"]:
    """Resize to (height, width); when shrinking, every kernel is widened. An image of 8 bits stays one for bicubic.

    Area is the mean over what an output pixel covers, and would show pixels as blocks where the image grows: there
    it is bilinear.
    """
    if tuple(image.shape[1:]) == size:
        return image
    if kernel == "bicubic":
        return resize(image, size=size)
    if kernel == "area" and size[0] < image.shape[1]:
        rows, columns = (_overlap(old, new) for old, new in zip(image.shape[1:], size, strict=True))
        return rows @ image.float() @ columns.T
    return F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0]


def _overlap(old: int, new: int) -> Float[Tensor, "new old"]:
    """How much of each new pixel lies on each old one, exactly: pooling over whole pixels would move what is small."""
    edges = torch.arange(new + 1, dtype=torch.float64) * (old / new)
    starts = torch.arange(old, dtype=torch.float64)
    covered = torch.minimum(edges[1:, None], starts + 1) - torch.maximum(edges[:-1, None], starts)
    return (covered.clamp_min(0) * (new / old)).float()


def add_noise(
    image: Shaped[Tensor, "3 h w"], level: float, generator: np.random.Generator, *, grey: bool
) -> Float[Tensor, "3 h w"]:
    """Add Gaussian noise of a standard deviation, in 8-bit steps; equal in all channels if `grey`."""
    channels, height, width = image.shape
    noise = generator.standard_normal((1 if grey else channels, height, width), dtype=np.float32)
    return image + level * torch.from_numpy(noise)


def add_photon_noise(
    image: Shaped[Tensor, "3 h w"], level: float, generator: np.random.Generator, *, grey: bool
) -> Float[Tensor, "3 h w"]:
    """Count photons, whose number has its own mean as variance.

    Args:
        level: standard deviation at white, in 8-bit steps; (255 / level)^2 photons make white.
        grey: count those of the mean of the channels, and change all channels alike.
    """
    image = image.float().clamp(0, WHITE)
    exact = image.mean(0, keepdim=True) if grey else image
    photons = (WHITE / level) ** 2
    counted = generator.poisson(exact.double().numpy() / WHITE * photons) * (WHITE / photons)
    return image + (torch.from_numpy(counted) - exact).float()


def to_8_bits(image: Shaped[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h w"]:
    return image if image.dtype == torch.uint8 else image.round().clamp(0, WHITE).to(torch.uint8)


def compress(image: UInt8[Tensor, "3 h w"], quality: int, *, full_colour: bool) -> UInt8[Tensor, "3 h w"]:
    """Through a JPEG file and back. With `full_colour` 4:4:4, else 4:2:0."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(
        file, "JPEG", quality=quality, subsampling="4:4:4" if full_colour else "4:2:0"
    )
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).contiguous()
