"""PSNR and SSIM, as the super-resolution papers compute them. Knows nothing of files, sets and networks.

A protocol is a preparation of two images (8 bits, planes, border) in front of a comparison of the planes in float64;
`protocols.py` puts the two together under a name.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nlsr.errors import ShapeError
from nlsr.images import luma
from nlsr.mirror import mirrored

PEAK = 255.0
"""Both metrics take 255 for the range of luma, though it ends at 235: the papers do."""

WINDOW_SIZE, WINDOW_SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
"""The window and the constants of Wang et al. 2004."""

EDSR_WEIGHTS = (65.738, 129.057, 25.064)
"""Weights of R, G and B, in units of 1/256: they make the luma of EDSR's code and its descendants, where black is 0."""

Edge = Literal["valid", "symmetric", "replicate"]
"""Where the window of SSIM counts: only where it fits, or at every pixel, the plane being extended by mirror images of
itself or by its edge."""

Planes = Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b c h w"]]
"""From RGB in [0, 1], every value a multiple of 1/255, to what is compared: planes with the peak 255."""


class Score(NamedTuple):
    """dB, infinite for equal images; and at most 1."""

    psnr: float
    ssim: float


def psnr(
    upscaled: Float[Tensor, "b 3 h w"], high_res: Float[Tensor, "b 3 h w"], *, border: int, planes: Planes = luma
) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each image's luma, in dB, float64; infinite where images are equal.

    Args:
        upscaled, high_res: RGB in [0, 1], clipped and rounded to 8 bits first, as the papers do. NaN gives NaN.
        border: pixels ignored on every side; the papers use the scale.
        planes: what to compare in place of luma; the error is the mean over all its planes.
    Raises: ShapeError if the sizes differ or the border leaves no pixel.
    Source: Y as MATLAB `rgb2ycbcr` of floating-point RGB; PSNR as in the bicubic rows of the literature.
    """
    return psnr_of_planes(*_prepared(upscaled, high_res, border, planes))


def ssim(
    upscaled: Float[Tensor, "b 3 h w"],
    high_res: Float[Tensor, "b 3 h w"],
    *,
    border: int,
    planes: Planes = luma,
    edge: Edge = "valid",
) -> Float[Tensor, " b"]:
    """Structural similarity of each image's luma, float64, at most 1; the mean over all positions of the window.

    The window is an 11 x 11 Gaussian of sigma 1.5; time and memory are linear in the pixels.

    Args:
        upscaled, high_res: RGB in [0, 1], clipped and rounded to 8 bits first, as the papers do. NaN gives NaN.
        border: pixels ignored on every side; the papers use the scale.
        planes: what to compare in place of luma; the result is the mean over all its planes.
        edge: whether the window must fit.
    Raises: ShapeError if the sizes differ or the border leaves less than one window; with another edge than "valid",
        no pixel.
    Source: Wang et al., Image quality assessment, IEEE TIP 2004; equals their MATLAB `ssim_index` without downsampling.
    """
    return ssim_of_planes(*_prepared(upscaled, high_res, border, planes), edge=edge)


def luma_8_bit(rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Luma rounded to integers: what MATLAB's `rgb2ycbcr` gives for an image of 8-bit integers."""
    return luma(rgb).add(0.5).floor()


def rgb_planes(rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """R, G and B as three planes."""
    return rgb * PEAK


def edsr_luma(rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """The weighted sum of EDSR's code: 0 is black, 219 white; not rounded."""
    weights = torch.tensor(EDSR_WEIGHTS, dtype=rgb.dtype, device=rgb.device) * (PEAK / 256)
    return (rgb * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)


def without_border(plane: Float[Tensor, "b c h w"], border: int) -> Float[Tensor, "b c y x"]:
    """The inner part of a plane, as a view.

    Raises: ShapeError for a negative border and one that leaves no pixel.
    """
    height, width = plane.shape[-2:]
    if border < 0:
        raise ShapeError(f"expected a border of 0 pixels or more, got {border}")
    if 2 * border >= min(height, width):
        raise ShapeError(
            f"a border of {border} leaves no pixel of an image of {width}×{height}; "
            f"it needs {2 * border + 1}×{2 * border + 1} or more"
        )
    return plane[..., border : height - border, border : width - border]


def psnr_of_planes(first: Float[Tensor, "b c h w"], second: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """PSNR in dB of planes with the peak 255; the mean squared error is taken over all planes of an image together."""
    mean_squared_error = (first - second).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(PEAK**2 / mean_squared_error)


def ssim_of_planes(
    first: Float[Tensor, "b c h w"], second: Float[Tensor, "b c h w"], *, edge: Edge = "valid"
) -> Float[Tensor, " b"]:
    """SSIM of planes with the peak 255, as the mean over positions and planes.

    Raises: ShapeError if the edge is "valid" and the window fits nowhere.
    """
    if edge == "valid":
        _check_window_fits(first)
    else:
        first, second = _extended(first, edge), _extended(second, edge)
    mean_1, mean_2 = _windowed(first), _windowed(second)
    variance_1 = _windowed(first * first) - mean_1 * mean_1
    variance_2 = _windowed(second * second) - mean_2 * mean_2
    covariance = _windowed(first * second) - mean_1 * mean_2
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    luminance = (2 * mean_1 * mean_2 + c1) / (mean_1 * mean_1 + mean_2 * mean_2 + c1)
    structure = (2 * covariance + c2) / (variance_1 + variance_2 + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _prepared(
    upscaled: Float[Tensor, "b 3 h w"], high_res: Float[Tensor, "b 3 h w"], border: int, planes: Planes
) -> tuple[Float[Tensor, "b c y x"], Float[Tensor, "b c y x"]]:
    if upscaled.shape != high_res.shape or upscaled.ndim != 4 or upscaled.shape[1] != 3:
        raise ShapeError(
            "expected upscaled and high_res of one size (batch, 3, height, width), "
            f"got {tuple(upscaled.shape)} and {tuple(high_res.shape)}; crop high_res to a multiple of the scale"
        )
    first, second = (planes(_rounded_to_8_bits(without_border(image, border))) for image in (upscaled, high_res))
    return first, second


def _rounded_to_8_bits(rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    # Stays floating point: an 8-bit type would turn NaN into a colour.
    return rgb.double().clamp(0, 1).mul(255).round().div(255)


def _check_window_fits(plane: Float[Tensor, "b c h w"]) -> None:
    height, width = plane.shape[-2:]
    if min(height, width) < WINDOW_SIZE:
        raise ShapeError(
            f"SSIM needs {WINDOW_SIZE}×{WINDOW_SIZE} pixels or more inside the border, got {width}×{height}; "
            "leave this image out or give a smaller border"
        )


def _extended(plane: Float[Tensor, "b c h w"], edge: Edge) -> Float[Tensor, "b c y x"]:
    """The plane with half a window more on every side."""
    margin = WINDOW_SIZE // 2
    for axis in (-2, -1):
        size = plane.shape[axis]
        if edge == "replicate":
            index = torch.arange(-margin, size + margin, device=plane.device).clamp(0, size - 1)
        else:
            index = mirrored(-margin, size + margin, size, plane.device)
        plane = plane.index_select(axis, index)
    return plane


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
