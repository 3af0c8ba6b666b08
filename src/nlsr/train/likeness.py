"""A loss that teaches a match the truth: positions whose high-res patches are alike should draw on each other.

In training the high-res image is known, and with it what really looks alike; low-res pixels say it less well.
No data is needed beside the pairs.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nlsr.attention import Affinity
from nlsr.errors import RecipeError
from nlsr.images import APART, PATCH_SIDE, high_res_patches

QUERIES = 64
"""Positions of each map, evenly spread, that are taught in a step."""
TEMPERATURE = 0.002
"""Mean squared difference of two patches, values in [0, 1], at which one counts 1 / e of an equal one: about 11 of 255
steps."""


def likeness(affinity: Affinity, high_res: Float[Tensor, "b 3 sh sw"], scale: int) -> Float[Tensor, ""]:
    """Cross-entropy between an affinity's rows and a softmax of the likeness of the patches that they can reach.

    Both are compared over those keys that a row reaches and that lie further away than convolutions see anyway; rows
    that reach fewer than two of them are left out.

    Args:
        affinity: between all positions of the low-res map, or of several of them below each other (joined patches).
        high_res: the images, in [0, 1].
        scale: how many times larger they are than the map.
    Raises: RecipeError if the keys are not the positions of the map.
    """
    if affinity.num_keys != affinity.num_queries or affinity.cell != 1:
        raise RecipeError("training.losses.likeness: the keys of this attention are not single positions; remove it")
    height = high_res.shape[2] // scale
    joined = affinity.height // height
    length = affinity.num_queries
    queries = torch.linspace(0, length - 1, min(QUERIES, length), device=high_res.device).round().long().unique()
    rows = affinity.rows(queries)
    target = _alike(high_res, queries, scale, joined)
    target = target.repeat_interleave(len(rows) // len(target), dim=0)  # for each head
    counts = (rows > 0) & _is_far(queries, length, affinity.width, height)
    target = target.masked_fill(~counts, -torch.inf)
    used = counts.sum(-1) > 1
    target, rows, counts = target[used].softmax(-1), rows[used].float(), counts[used]
    drawn = rows.masked_fill(~counts, 0)
    share = drawn / drawn.sum(-1, keepdim=True).clamp(min=torch.finfo(drawn.dtype).tiny)
    surprise = share.clamp(min=1e-6).log().mul(-target).sum(-1)
    return surprise.sum() / max(len(surprise), 1)


@torch.no_grad()
def _alike(high_res: Tensor, queries: Int[Tensor, " q"], scale: int, joined: int) -> Float[Tensor, "b q keys"]:
    """Minus the mean squared differences of the patches of queries and keys, over the temperature."""
    patches = high_res_patches(high_res, scale).flatten(3)
    tokens = rearrange(patches, "(b joined) h w n -> b (joined h w) n", joined=joined)
    squared = torch.cdist(tokens[:, queries], tokens).square()
    return squared.div(-TEMPERATURE * 3 * PATCH_SIDE**2)


def _is_far(queries: Int[Tensor, " q"], length: int, width: int, height: int) -> Bool[Tensor, "q keys"]:
    """Whether a key is further from a query than `APART` allows, or in another of the joined maps."""
    keys = torch.arange(length, device=queries.device)
    image, row, column = keys // (height * width), keys // width % height, keys % width
    near = (row[queries, None] - row).abs().maximum((column[queries, None] - column).abs()) <= APART
    return ~near | (image[queries, None] != image)
