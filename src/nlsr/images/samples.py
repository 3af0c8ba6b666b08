"""Values in [0, 1] as files hold them, and back."""

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor


def to_8_bits(image: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
    """[0, 1], clipped where it exceeds, to 0..255."""
    return image.clamp(0, 1).mul(255).round().to(torch.uint8)


def from_8_bits(image: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """0..255 to float32 in [0, 1]."""
    return image.to(torch.float32).div(255)


def as_float(samples: Shaped[Tensor, "*_"]) -> Float[Tensor, "*_"]:
    """Samples of any depth as float32 in [0, 1]."""
    return samples.float() if samples.is_floating_point() else samples.float() / torch.iinfo(samples.dtype).max
