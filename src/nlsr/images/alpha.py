"""Colours under transparent pixels: what a network or a resize should see there. Knows nothing of files."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def bleed(pixels: Float[Tensor, "b c h w"], alpha: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b c h w"]:
    """Give every fully transparent pixel the colour of the visible ones near it; all others stay as they are.

    What files hold under transparent pixels is arbitrary, often black, and whatever looks at neighbourhoods would
    carry it into the visible border. The fill is smooth, an average of visible colours weighted by their alpha,
    and lies between the least and the greatest of them. Pixels of images that are transparent everywhere become 0.
    Takes linear time and about twice the memory of `pixels`.

    Args:
        alpha: 0 is transparent; the colours are not multiplied by it.
    Source: the pull-push algorithm of Gortler et al., "The Lumigraph", 1996, with a bilinear push.
    """
    if bool((alpha > 0).all()):
        return pixels
    weight = alpha.to(torch.promote_types(alpha.dtype, torch.float32))
    return torch.where(alpha > 0, pixels, _filled(pixels * weight, weight).to(pixels.dtype))


def _filled(weighted: Tensor, weight: Tensor) -> Tensor:
    """Colours: weighted / weight where there is weight, elsewhere interpolated from the same at half the size."""
    known = weight > 0
    colours = weighted / weight.where(known, 1)
    height, width = weight.shape[2:]
    if max(height, width) == 1 or bool(known.all()):
        return colours
    half = _filled(*(F.avg_pool2d(x, 2, ceil_mode=True) for x in (weighted, weight)))
    doubled = F.interpolate(half, scale_factor=2, mode="bilinear")[:, :, :height, :width]
    return colours.where(known, doubled)
