"""Tiled against whole: what an image loses by being cut, as a number and as a picture."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

AMPLIFICATION = 16.0


@dataclass(frozen=True)
class TilingDifference:
    """How far a tiled result is from the whole one.

    Args:
        psnr: PSNR of the tiled result against the whole one, over all RGB values, in dB; infinite if they are equal.
        largest: the largest difference of a value.
        picture: (1, 3, height, width) in [0, 1]: mid-grey plus `amplification` times tiled minus whole. Seams would
            show as a grid.
    """

    psnr: float
    largest: float
    picture: Float[Tensor, "1 3 h w"]
    amplification: float

    def __str__(self) -> str:
        return f"tiled against whole: {self.psnr:.2f} dB, largest difference {255 * self.largest:.1f} of 255"


def compare_tiling(
    tiled: Float[Tensor, "1 3 h w"], whole: Float[Tensor, "1 3 h w"], *, amplification: float = AMPLIFICATION
) -> TilingDifference:
    """Compare results of one image, made by an `Upscaler` with tiles and by one with `tile="none"`."""
    difference = tiled - whole
    error = difference.square().mean(dtype=torch.float64)
    return TilingDifference(
        psnr=float(-10 * torch.log10(error)),
        largest=float(difference.abs().max()),
        picture=(0.5 + amplification * difference).clamp_(0, 1),
        amplification=amplification,
    )
