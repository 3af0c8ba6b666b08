"""Random directions that sort positions into buckets: drawn reproducibly, or given.

Positions whose embeddings point the same way fall into the same bucket with high probability.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nlsr.attention.affinity import Draws, matching_dtype

MAX_BUCKETS = 128


def num_buckets(length: int, chunk_size: int) -> int:
    """About one bucket per full chunk: even, at least 2, at most 128."""
    chunks = length // chunk_size
    return max(2, min(chunks + chunks % 2, MAX_BUCKETS))


def directions(
    draws: Draws | None, seed: int, draw: Callable[[torch.Generator], Tensor], like: Tensor
) -> Float[Tensor, "1 d r b"]:
    """Given directions as they are, new ones from a generator, or those of a seed.

    Args:
        draw: makes directions of the right shape from a CPU generator, so that every device gets the same.
    """
    if isinstance(draws, Tensor):
        drawn = draws
    else:
        drawn = draw(torch.Generator().manual_seed(seed) if draws is None else draws)
    return drawn.to(like.device, matching_dtype(like.dtype))


@torch.no_grad()
def bucket_codes(
    embedding: Float[Tensor, "b l d"], directions: Float[Tensor, "1 d r k"], *, both_signs: bool
) -> Int[Tensor, "b r l"]:
    """The direction, in each round, on which an embedding projects most; the lowest index on a tie.

    Args:
        both_signs: each direction also stands for its opposite, numbered after all others.
    """
    with torch.autocast(embedding.device.type, enabled=False):
        projected = torch.einsum("bld,drk->brlk", embedding.to(directions.dtype), directions[0])
    if both_signs:
        projected = torch.cat((projected, -projected), dim=-1)
    return projected.argmax(-1)
