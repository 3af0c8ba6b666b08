"""Which input pixels a spot of the result is made from: the local attribution map (LAM) and its diffusion index.

Integrated gradients along a path from the blurred to the sharp image, of how much detail the result has in a window.
Takes any function of an image; knows nothing of affinities.

Source: Gu and Dong, "Interpreting Super-Resolution Networks with Local Attribution Maps", CVPR 2021,
arXiv 2011.11036, and its published code.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nlsr.errors import ShapeError, UsageError
from nlsr.explain.region import Region, around
from nlsr.report import Report

STEPS = 50
"""Steps of the path, as published."""
WINDOW = 16
"""Side of the window whose detail is explained, in upscaled pixels, as published."""
REGION = 256
"""Side of the region that is attributed to, in upscaled pixels: the size of the published examples."""
SIGMA, BLUR_SIZE = 1.2, 9
"""The Gaussian at the start of the path: its standard deviation and side in low-res pixels, as published."""
MAGNITUDE_FLOOR = 1e-10
"""Added to squared magnitudes, whose root has no gradient at zero: a 400th of one of 255 levels."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """Integrated gradients of the detail in a window of the result."""

    gradients: Float[Tensor, "3 h w"]
    """The integrated gradient of each input value. They sum to `detail - blurred_detail`, except for the error of the
    steps and for jumps of the network."""
    detail: float
    """In the window of the upscaled image."""
    blurred_detail: float
    """In the window of the upscaled blurred image."""
    upscaled: Float[Tensor, "3 sh sw"]
    """What the network makes of the image; about [0, 1]."""
    window: Region
    """In upscaled pixels."""

    @property
    def map(self) -> Float[Tensor, "h w"]:
        """How much each pixel contributes: the magnitude of the sum over its colours."""
        return self.gradients.sum(0).abs()

    @property
    def diffusion_index(self) -> float:
        return diffusion_index(self.map)


def attribute(
    upscale: Callable[[Tensor], Tensor],
    image: Float[Tensor, "1 3 h w"],
    at: tuple[int, int],
    *,
    steps: int = STEPS,
    window: int = WINDOW,
    report: Report | None = None,
) -> Attribution:
    """The local attribution map of the result around a pixel; one forward and backward per step.

    Args:
        upscale: a differentiable function from an image to one that is an integer number of times larger.
        at: x and y of the pixel in the image.
        window: side of the part of the result that is explained, in upscaled pixels.
    Raises: UsageError for less than one step or a window below 1 pixel or beyond the result.
    """
    if steps < 1:
        raise UsageError(f"expected at least 1 step of attribution, got {steps}")
    path = blur_path(image)
    with torch.no_grad():
        upscaled, upscaled_blurred = upscale(image), upscale(path(0))
    height, width = upscaled.shape[2:]
    if not 1 <= window < min(height, width):  # the last row and column have no difference to the next
        raise UsageError(
            f"expected a window of 1 to {min(height, width) - 1} upscaled pixels in a result of {width}x{height}, "
            f"got {window}"
        )
    scale = height // image.shape[2]
    x, y = (scale * place + scale // 2 for place in at)
    place = around(x, y, window, width=width - 1, height=height - 1)
    gradients = integrated_gradients(lambda point: detail(upscale(point), place), path, steps=steps, report=report)
    return Attribution(
        gradients[0].cpu(),
        float(detail(upscaled, place)),
        float(detail(upscaled_blurred, place)),
        upscaled[0].cpu(),
        place,
    )


def blur_path(image: Float[Tensor, "1 3 h w"]) -> Callable[[float], Float[Tensor, "1 3 h w"]]:
    """A function from 0 (blurred) to 1 (as it is) that gives the images between, less and less blurred."""
    return lambda part: blur(image, (1 - part) * SIGMA, size=BLUR_SIZE)


def integrated_gradients(
    score: Callable[[Tensor], Float[Tensor, ""]],
    path: Callable[[float], Float[Tensor, "1 c h w"]],
    *,
    steps: int,
    report: Report | None = None,
) -> Float[Tensor, "1 c h w"]:
    """The share of each input value in how the score changes along a path from 0 to 1.

    The gradient is taken in the middle of each step, which makes the error of the sum quadratic in 1 / steps; the
    published code takes it at the end.
    """
    before = path(0)
    total = torch.zeros_like(before)
    for step in range(steps):
        after = path((step + 1) / steps)
        with torch.enable_grad():
            middle = path((step + 0.5) / steps).requires_grad_()
            (gradient,) = torch.autograd.grad(score(middle), middle)
        total += gradient * (after - before)
        before = after
        if report is not None:
            report(step + 1, steps)
    return total


def detail(upscaled: Float[Tensor, "1 3 h w"], window: Region) -> Float[Tensor, ""]:
    """The sum over a window of the magnitudes of the differences to the next row and column."""
    down, right = upscaled.diff(dim=2)[..., :-1], upscaled.diff(dim=3)[..., :-1, :]
    return (window.of(down).square() + window.of(right).square() + MAGNITUDE_FLOOR).sqrt().sum()


def diffusion_index(map: Float[Tensor, "h w"]) -> float:
    """(1 - Gini index) * 100 of a non-negative map: 100 if all pixels contribute equally, near 0 for one alone.

    Depends on the size of the map. NaN if nothing contributes.
    """
    return 100 * (1 - gini(map))


def gini(map: Float[Tensor, "..."]) -> float:
    """The Gini index of non-negative values: 0 if all are equal, 1 - 1/n for one alone, NaN for zeros."""
    ranked = map.flatten().double().sort().values
    count = len(ranked)
    ranks = 2 * torch.arange(1, count + 1, dtype=torch.float64, device=ranked.device) - count - 1
    return float((ranks * ranked).sum() / (count * ranked.sum()))


def blur(image: Float[Tensor, "b c h w"], sigma: float, *, size: int) -> Float[Tensor, "b c h w"]:
    """Gaussian blur with a kernel of odd size, the image being mirrored at its borders.

    Raises: ShapeError if the image is not larger than half the kernel.
    """
    if sigma == 0:
        return image.clone()
    reach = size // 2
    if min(image.shape[2:]) <= reach:
        raise ShapeError(f"expected an image of more than {reach} pixels a side, got {tuple(image.shape)}")
    offsets = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
    weights = torch.exp(-offsets.square() / (2 * sigma**2))
    weights = (weights / weights.sum()).expand(image.shape[1], 1, 1, -1)
    padded = F.pad(image, (reach,) * 4, mode="reflect")
    across = F.conv2d(padded, weights, groups=image.shape[1])
    return F.conv2d(across, weights.mT, groups=image.shape[1])
