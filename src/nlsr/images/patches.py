"""What each low-res position looks like in truth: the patch of the high-res image around it."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

PATCH_SIDE = 12
"""Side of a high-res patch that stands for a position: at x4 its pixels and those of all its neighbours."""
APART = 3
"""Low-res pixels along either axis up to which another position is no find: convolutions see it anyway."""


def high_res_patches(high_res: Float[Tensor, "b 3 sh sw"], scale: int) -> Float[Tensor, "b h w 3 side side"]:
    """The patch around each low-res position. A view of the image, which is continued by its mirror image."""
    height, width = (side // scale for side in high_res.shape[2:])
    before = (PATCH_SIDE - scale) // 2
    padded = F.pad(high_res, (before, PATCH_SIDE, before, PATCH_SIDE), mode="reflect")
    patches = padded.unfold(2, PATCH_SIDE, scale).unfold(3, PATCH_SIDE, scale)[:, :, :height, :width]
    return rearrange(patches, "b c h w i j -> b h w c i j")
