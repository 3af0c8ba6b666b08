"""A set of keys that all queries draw on, chosen by a score of each key."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nlsr.errors import ShapeError

SLACK = 1e-9
"""Relative; a score that equals the threshold but for rounding is in the set."""
TIE_DECIMALS = 10
"""Scores that agree to so many decimals are equal, and the lower index comes first."""


@dataclass(frozen=True)
class KeySet:
    """Positions of the chosen keys; sets of unequal sizes are padded."""

    indices: Int[Tensor, "*batch r"]
    """Increasing; 0 where nothing is present."""
    present: Bool[Tensor, "*batch r"] | None = None
    """False where a smaller set is padded; None if all sets have equal size."""

    def gather(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b r c"]:
        """The tokens in the set; zeros where nothing is present."""
        chosen = tokens.gather(1, self.indices[..., None].expand(-1, -1, tokens.shape[2]))
        return chosen if self.present is None else chosen * self.present[..., None]

    def scatter(self, weights: Float[Tensor, "b q r"], num_keys: int) -> Float[Tensor, "b q n"]:
        """Weights of the set as full rows, zero elsewhere."""
        indices = self.indices[:, None].expand_as(weights)
        return weights.new_zeros(*weights.shape[:2], num_keys).scatter_add(2, indices, weights)


@torch.no_grad()
def threshold(scores: Float[Tensor, "*batch n"], eps: float) -> KeySet:
    """All keys whose score is at least eps, but for rounding.

    By scores that bound the sensitivities this set is *universal*: no query of any kind has an entry >= eps outside.

    Raises: ShapeError unless 0 < eps <= 1.
    """
    check_eps(eps)
    inside = scores >= eps * (1 - SLACK)
    sizes = inside.sum(-1, keepdim=True)
    largest = int(sizes.max()) if sizes.numel() else 0
    # Members before others, each in the order of their positions.
    order = inside.sort(dim=-1, descending=True, stable=True).indices[..., :largest]
    present = torch.arange(largest, device=scores.device) < sizes
    return KeySet(order.mul(present), None if present.all() else present)


@torch.no_grad()
def top_r(scores: Float[Tensor, "*batch n"], r: int) -> KeySet:
    """The r keys of largest score, all keys if there are fewer; of equal scores the lower indices.

    Raises: ShapeError if r < 1.
    """
    if r < 1:
        raise ShapeError(f"expected a set of r >= 1 keys, got {r}")
    ranked = scores.round(decimals=TIE_DECIMALS).sort(dim=-1, descending=True, stable=True).indices
    return KeySet(ranked[..., :r].sort(dim=-1).values)


def check_eps(eps: float) -> None:
    """Raises: ShapeError unless 0 < eps <= 1."""
    if not 0 < eps <= 1:
        raise ShapeError(f"expected a threshold 0 < eps <= 1 on the entries of attention, got {eps}")
