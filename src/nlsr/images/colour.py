"""Luma as the super-resolution papers measure it. Knows nothing of files."""

import torch
from jaxtyping import Float
from torch import Tensor

# ITU-R BT.601, studio range, for R, G and B in [0, 1]: what MATLAB's `rgb2ycbcr` computes.
RED, GREEN, BLUE, BLACK = 65.481, 128.553, 24.966, 16.0


def luma(rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """BT.601 luma in units of an 8-bit value: 16 is black, 235 is white; not rounded.

    Args:
        rgb: R, G and B in [0, 1].
    Source: ITU-R BT.601, as MATLAB `rgb2ycbcr` and the papers' tables use it.
    """
    weights = torch.tensor([RED, GREEN, BLUE], dtype=rgb.dtype, device=rgb.device)
    return BLACK + (rgb * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)
