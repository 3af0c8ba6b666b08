"""MATLAB's `imresize`, bicubic with antialiasing, along the last two axes of a tensor.

Low-res images of super-resolution benchmarks are made by this function, on 8-bit values, with rounding after
each one-dimensional pass; a resize that rounds only once differs in 13 % of the values. Knows nothing of files.

Source: the documented behaviour of MATLAB `imresize(image, scale, "bicubic")`.
"""

import math
from fractions import Fraction

import torch
from torch import Tensor

from nlsr.errors import ShapeError


def resize(
    image: Tensor, *, scale: float | int | Fraction | None = None, size: tuple[int, int] | None = None
) -> Tensor:
    """Resize the last two axes (height, width) with a bicubic kernel (a = -0.5) and symmetric borders.

    The kernel is widened by the scale where the image shrinks. The axis that shrinks most goes first, rows before
    columns on a tie. The dtype decides about rounding: uint8 is computed in float64 and rounded half up and
    clipped to 0..255 **after each pass**, as MATLAB does with uint8 images; floating point is neither rounded nor
    clipped. Time and memory are linear in the pixels.

    Args:
        image: (..., height, width), uint8 or floating point.
        scale: the factor of both axes; the output has ceil(scale * side) pixels. Either this or `size`.
        size: (height, width) of the output; each axis has the scale output / input.
    Raises: ShapeError if the image has fewer than two axes or an empty one, ValueError if neither or both of scale
        and size are given, or one is not positive.
    """
    if image.ndim < 2 or 0 in image.shape[-2:]:
        raise ShapeError(f"expected an image (..., height, width) with pixels in it, got {tuple(image.shape)}")
    if not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise TypeError(f"expected a uint8 or floating-point image, got {image.dtype}; convert it first")
    if (scale is None) == (size is None):
        raise ValueError("expected exactly one of scale and size")
    if scale is not None:
        scales = [float(scale)] * 2
        if not scales[0] > 0:
            raise ValueError(f"expected a positive scale, got {scale}")
        # A float like 1/3 times 9 may exceed 3 by one rounding error, which must not add a pixel.
        size = tuple(math.ceil(round(float(scale) * side, 9)) for side in image.shape[-2:])  # type: ignore[assignment]
    assert size is not None
    if min(size) < 1:
        raise ValueError(f"expected a positive size, got {size}")
    if scale is None:
        scales = [new / old for new, old in zip(size, image.shape[-2:], strict=True)]

    for axis in sorted((0, 1), key=lambda i: scales[i]):
        image = _resize_axis(image, axis - 2, size[axis], scales[axis])
    return image


def _resize_axis(image: Tensor, axis: int, out_size: int, scale: float) -> Tensor:
    indices, weights = _contributions(image.shape[axis], out_size, scale)
    dtype = torch.float64 if image.dtype == torch.uint8 else image.dtype
    indices, weights = indices.to(image.device), weights.to(image.device, dtype)
    shape = [1] * image.ndim
    shape[axis] = out_size
    total: Tensor | None = None
    for tap in range(indices.shape[1]):  # one shifted copy at a time: memory stays that of the output
        part = image.index_select(axis, indices[:, tap]).to(dtype) * weights[:, tap].view(shape)
        total = part if total is None else total.add_(part)
    assert total is not None
    if image.dtype == torch.uint8:
        return (total + 0.5).floor_().clamp_(0, 255).to(torch.uint8)
    return total


def _contributions(in_size: int, out_size: int, scale: float) -> tuple[Tensor, Tensor]:
    """Which input pixels make each output pixel, and how much: two (out_size, taps) tensors, float64 weights."""
    shrink = min(scale, 1.0)
    kernel_size = 4.0 / shrink
    centre = (torch.arange(out_size, dtype=torch.float64) + 0.5) / scale - 0.5
    left = (centre - kernel_size / 2).floor()
    taps = math.ceil(kernel_size) + 2
    indices = left[:, None] + torch.arange(taps, dtype=torch.float64)
    weights = _cubic((centre[:, None] - indices) * shrink)
    weights = weights / weights.sum(1, keepdim=True)
    used = (weights != 0).any(0)
    # Symmetric border: ... 1 0 | 0 1 2 ... n-1 | n-1 n-2 ..., repeated where the image is smaller than the kernel.
    folded = indices[:, used].long() % (2 * in_size)
    folded = torch.where(folded < in_size, folded, 2 * in_size - 1 - folded)
    return folded, weights[:, used]


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5."""
    x = x.abs()
    inner = 1.5 * x**3 - 2.5 * x**2 + 1
    outer = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, inner, torch.where(x <= 2, outer, torch.zeros_like(x)))
