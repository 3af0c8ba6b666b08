"""PSNR and SSIM of luma, as the super-resolution papers compute them. Knows nothing of files, sets and networks.

Each metric prepares a pair of images (8 bits, luma, border) and compares the two planes in float64; another
protocol is another preparation in front of the same comparison.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nlsr.errors import ShapeError
from nlsr.images import luma

PEAK = 255.0
"""Both metrics take 255 for the range of luma, though it ends at 235: the papers do."""

WINDOW_SIZE, WINDOW_SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
"""The window and the constants of Wang et al. 2004."""


def psnr(upscaled: Float[Tensor, "b 3 h w"], high_res: Float[Tensor, "b 3 h w"], *, border: int) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each image's luma, in dB, float64; infinite where images are equal.

    Args:
        upscaled, high_res: RGB in [0, 1], clipped and rounded to 8 bits first, as the papers do. NaN gives NaN.
        border: pixels ignored on every side; the papers use the scale.
    Raises: ShapeError if the sizes differ or the border leaves no pixel.
    Source: Y as MATLAB `rgb2ycbcr` of floating-point RGB; PSNR as in the bicubic rows of the literature.
    """
    return _psnr(*_luma_planes(upscaled, high_res, border))


def ssim(upscaled: Float[Tensor, "b 3 h w"], high_res: Float[Tensor, "b 3 h w"], *, border: int) -> Float[Tensor, " b"]:
    """Structural similarity of each image's luma, float64, at most 1; the mean over all positions of the window.

    The window is an 11 x 11 Gaussian of sigma 1.5 and counts where it fits entirely; time and memory are linear in
    the pixels.

    Args:
        upscaled, high_res: RGB in [0, 1], clipped and rounded to 8 bits first, as the papers do. NaN gives NaN.
        border: pixels ignored on every side; the papers use the scale.
    Raises: ShapeError if the sizes differ or the border leaves less than one window.
    Source: Wang et al., Image quality assessment, IEEE TIP 2004; equals their MATLAB `ssim_index` without downsampling.
    """
    return _ssim(*_luma_planes(upscaled, high_res, border))


def _luma_planes(
    upscaled: Float[Tensor, "b 3 h w"], high_res: Float[Tensor, "b 3 h w"], border: int
) -> tuple[Float[Tensor, "b 1 y x"], Float[Tensor, "b 1 y x"]]:
    _check_sizes(upscaled, high_res, border)
    first, second = (_without_border(luma(_rounded_to_8_bits(image)), border) for image in (upscaled, high_res))
    return first, second


def _check_sizes(upscaled: Tensor, high_res: Tensor, border: int) -> None:
    if upscaled.shape != high_res.shape or upscaled.ndim != 4 or upscaled.shape[1] != 3:
        raise ShapeError(
            "expected upscaled and high_res of one size (batch, 3, height, width), "
            f"got {tuple(upscaled.shape)} and {tuple(high_res.shape)}; crop high_res to a multiple of the scale"
        )
    height, width = upscaled.shape[-2:]
    if border < 0:
        raise ShapeError(f"expected a border of 0 pixels or more, got {border}")
    if 2 * border >= min(height, width):
        raise ShapeError(
            f"a border of {border} leaves no pixel of an image of {width}×{height}; "
            f"it needs {2 * border + 1}×{2 * border + 1} or more"
        )


def _rounded_to_8_bits(rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    # Stays floating point: an 8-bit type would turn NaN into a colour.
    return rgb.double().clamp(0, 1).mul(255).round().div(255)


def _without_border(plane: Float[Tensor, "b c h w"], border: int) -> Float[Tensor, "b c y x"]:
    height, width = plane.shape[-2:]
    return plane[..., border : height - border, border : width - border]


def _psnr(first: Float[Tensor, "b c h w"], second: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    mean_squared_error = (first - second).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(PEAK**2 / mean_squared_error)


def _ssim(first: Float[Tensor, "b c h w"], second: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    height, width = first.shape[-2:]
    if min(height, width) < WINDOW_SIZE:
        raise ShapeError(
            f"SSIM needs {WINDOW_SIZE}×{WINDOW_SIZE} pixels or more inside the border, got {width}×{height}; "
            "leave this image out or give a smaller border"
        )
    mean_1, mean_2 = _windowed(first), _windowed(second)
    variance_1 = _windowed(first * first) - mean_1 * mean_1
    variance_2 = _windowed(second * second) - mean_2 * mean_2
    covariance = _windowed(first * second) - mean_1 * mean_2
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    luminance = (2 * mean_1 * mean_2 + c1) / (mean_1 * mean_1 + mean_2 * mean_2 + c1)
    structure = (2 * covariance + c2) / (variance_1 + variance_2 + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _windowed(plane: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c y x"]:
    """The Gaussian mean around each position where the window fits: rows, then columns."""
    offset = torch.arange(WINDOW_SIZE, dtype=plane.dtype, device=plane.device) - WINDOW_SIZE // 2
    weights = torch.exp(-offset.square() / (2 * WINDOW_SIGMA**2))
    weights = weights / weights.sum()
    for axis in (-2, -1):
        count = plane.shape[axis] - WINDOW_SIZE + 1
        # Shifted slices, as a float64 convolution on CPU unfolds eleven copies of the image.
        total = plane.narrow(axis, 0, count) * weights[0]
        for shift in range(1, WINDOW_SIZE):
            total.addcmul_(plane.narrow(axis, shift, count), weights[shift])
        plane = total
    return plane
