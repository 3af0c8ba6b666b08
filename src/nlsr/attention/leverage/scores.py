"""How large an entry of attention a key can have at most, whatever the query: computed from the keys alone.

For attention by f(x) = x^2 this *sensitivity* of a key is its leverage score; for |x|^p, Lewis weights and the leverage
scores of lifted keys bound it. For softmax there is no such theorem: leverage then is a heuristic.

Source: Kannan et al., "LevAttention", ICLR 2025, arXiv 2410.05462.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nlsr.attention.leverage.gram import GramSum, squared_norms, whitening
from nlsr.errors import ShapeError

CONVERGED = 1e-13
"""Relative change of every weight at which Lewis weights are done."""
NOISE = 1e-6
"""A change below this that no longer falls is rounding: ill-conditioned keys never get to `CONVERGED`."""
MAX_STEPS = 1000
"""Keys at the edge of their rank can jump to and fro for ever."""


@torch.no_grad()
def leverage_scores(key: Float[Tensor, "*batch n d"], *, ridge: float = 0.0) -> Float[Tensor, "*batch n"]:
    """k_i^T (K^T K + ridge)^+ k_i for each row k_i of K, in double precision.

    Between 0 and 1, summing to the rank of K; a zero row has 0, a row outside the span of the others 1. The same for
    K M, M invertible; not for keys plus a constant vector, though softmax is. Time n d^2 + d^3, workspace d^2.

    Args:
        ridge: makes scores smaller and smoother. Without one, directions of singular values below about 1e-8 of the
            largest are lost: scores there mean nothing.
    Raises: NlsrError if a key is not finite.
    """
    return _scores(key, 1, ridge)


@torch.no_grad()
def lifted_scores(key: Float[Tensor, "*batch n d"], p: int) -> Float[Tensor, "*batch n"]:
    """Upper bounds of the sensitivities for f(x) = x^p, p even: leverage scores of all monomials of degree p/2.

    They sum to at most C(d + p/2 - 1, p/2) = D. Time n D^2 + D^3. For p = 2 they are the leverage scores.

    Raises: ShapeError if p is not even.
    """
    if p < 2 or p % 2:
        raise ShapeError(f"expected an even power p >= 2, got {p}; lewis_weights take any p >= 1")
    return _scores(key, p // 2, 0.0)


@torch.no_grad()
def lewis_weights(key: Float[Tensor, "*batch n d"], p: int | float) -> Float[Tensor, "*batch n"]:
    """The l_p Lewis weights: the w with w = leverage scores of diag(w)^(1/2 - 1/p) K; zero rows have 0.

    They sum to the rank of K. A damped fixed-point iteration from the leverage scores, 20 to 50 steps of n d^2 + d^3.

    Raises: ShapeError if p < 1.
    """
    check_power(p)
    rate = 4 / (p + 2) if p >= 2 else 1.0
    weights = leverage_scores(key)
    moving = (weights > 0).any(-1, keepdim=True)
    before = torch.full_like(weights[..., :1], torch.inf)
    for _ in range(MAX_STEPS):
        if not moving.any():
            break
        alive = weights > 0
        log = torch.where(alive, weights, 1).log()
        rows = key.double() * (alive * (log * (0.5 - 1 / p)).exp())[..., None]
        scores = torch.where(alive, leverage_scores(rows), 1)
        step = rate * (p / 2) * (scores.log() - log)
        # What has converged stays, so that keys get equal weights alone and in a batch.
        weights = torch.where(moving & alive, (log + step).exp(), weights)
        change = step.expm1().abs().amax(-1, keepdim=True)
        moving = moving & (change > CONVERGED) & ((change > NOISE) | (change < before))
        before = change
    return weights


@torch.no_grad()
def sensitivity_bounds(key: Float[Tensor, "*batch n d"], p: int | float) -> Float[Tensor, "*batch n"]:
    """Upper bounds of sup over queries of |q . k_i|^p / sum_j |q . k_j|^p, from Lewis weights; p = 2: exact.

    With r the rank of K they sum to at most r for p <= 2, and to r^(p/2) above.

    Raises: ShapeError if p < 1.
    """
    weights = lewis_weights(key, p)
    if p <= 2:
        return weights
    rank = weights.sum(-1, keepdim=True).round()
    return (rank ** (p / 2 - 1) * weights).clamp_max(1)


def check_power(p: int | float) -> None:
    """Raises: ShapeError if p < 1."""
    if not p >= 1:
        raise ShapeError(f"expected a power p >= 1, got {p}")


def _scores(key: Tensor, power: int, ridge: float) -> Tensor:
    gram = GramSum(power=power)
    gram.add(key)
    return squared_norms(key, whitening(gram.total(), gram.num_rows, ridge=ridge), power=power)
