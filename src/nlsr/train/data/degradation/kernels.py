"""Blur kernels as tensors that sum to one. Knows nothing of images and draws nothing.

Source: Liu et al., "Estimating Generalized Gaussian Blur Kernels for Out-of-Focus Image Deblurring", 2020, and
Wang et al., "Real-ESRGAN", 2021 (arXiv 2107.10833), sections 3.1 and 3.3.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Shape = Literal["generalised", "plateau"]


def blur_kernel(
    sigmas: tuple[float, float], angle: float, shape: Shape = "generalised", power: float = 1.0
) -> Float[Tensor, "k k"]:
    """A blur whose density falls with r, the distance over sigma.

    Args:
        sigmas: widths along the two axes, in pixels; the kernel ends at four times the larger one.
        angle: angle between the first axis and the horizontal, in radians.
        shape: exp(-r^(2 power) / 2), which is a Gaussian for a power of 1, or 1 / (1 + r^(2 power)).
    """
    y, x = _grid(max(1, math.ceil(4 * max(sigmas))))
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    distance = ((along / sigmas[0]) ** 2 + (across / sigmas[1]) ** 2) ** power
    density = torch.exp(-distance / 2) if shape == "generalised" else 1 / (1 + distance)
    return (density / density.sum()).float()


def sinc_kernel(cutoff: float) -> Float[Tensor, "k k"]:
    """A round low-pass filter, which rings at edges.

    Args:
        cutoff: in radians per pixel; pi passes all that the pixels hold along the axes. The kernel ends after four
            half periods of the cutoff.
    """
    y, x = _grid(max(1, math.ceil(4 * math.pi / cutoff)))
    radius = torch.sqrt(x**2 + y**2)
    wave = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    wave = torch.where(radius == 0, cutoff**2 / (4 * math.pi), wave)
    return (wave / wave.sum()).float()


def _grid(radius: int) -> tuple[Tensor, Tensor]:
    steps = torch.arange(-radius, radius + 1, dtype=torch.float64)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return y, x
