"""What training minimises: terms of a traced batch, each with a weight. Knows nothing of recipes and loops."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

CHARBONNIER_EPS = 1e-3
"""Errors below it count by their square. Lai et al., "Deep Laplacian Pyramid Networks", CVPR 2017."""


def l1(upscaled: Float[Tensor, "b 3 h w"], high_res: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
    """Mean absolute error."""
    return F.l1_loss(upscaled, high_res)


def mse(upscaled: Float[Tensor, "b 3 h w"], high_res: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
    """Mean squared error."""
    return F.mse_loss(upscaled, high_res)


def charbonnier(upscaled: Float[Tensor, "b 3 h w"], high_res: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
    """Mean of sqrt(error^2 + eps^2): absolute error, smooth at zero; `CHARBONNIER_EPS` for equal images."""
    return (upscaled - high_res).square().add(CHARBONNIER_EPS**2).sqrt().mean()


def frequency(upscaled: Float[Tensor, "b 3 h w"], high_res: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
    """Mean absolute difference of real and imaginary parts of the orthonormal spectra, all of its frequencies.

    Source: Cho et al., "Rethinking Coarse-to-Fine Approach in Single Image Deblurring", ICCV 2021, arXiv 2108.05054;
    there without normalisation. Here it is of the size of the other terms, whatever the size of the patch.
    """
    return torch.view_as_real(torch.fft.fft2(upscaled - high_res, norm="ortho")).abs().mean()


PIXEL_LOSSES = {"l1": l1, "mse": mse, "charbonnier": charbonnier, "frequency": frequency}
"""Name in a recipe -> function of the upscaled and the high-res image."""
