"""Universal key sets of keys that do not fit in memory: in two passes, or in one with a bounded buffer.

Source: Kannan et al., "LevAttention", ICLR 2025, arXiv 2410.05462.
"""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nlsr.attention.leverage.gram import GramSum, squared_norms, whitening
from nlsr.attention.leverage.selection import check_eps, threshold
from nlsr.errors import ShapeError


class KeyStream:
    """The universal set {i : leverage score >= eps} of all keys so far, each of which is seen once.

    A score never rises when keys are added, so a key that falls below eps can be forgotten. After each chunk at most
    rank / eps keys are held: those of `threshold(leverage_scores(keys), eps)`, however the keys were chunked.
    Memory (d / eps + chunk) d + d^2 log(keys); time per chunk (d / eps + chunk) d^2 + d^3.
    """

    indices: Int[Tensor, " u"]
    """Which keys are in the set, counted from the first one ever seen; increasing."""
    keys: Float[Tensor, "u d"]
    scores: Float[Tensor, " u"]
    """Leverage scores among all keys so far."""

    def __init__(self, width: int, eps: float, *, device: torch.device | str = "cpu") -> None:
        """
        Args:
            width: entries of a key.
            eps: entries of attention at least so large are in the set, in (0, 1].
        Raises: ShapeError unless 0 < eps <= 1.
        """
        check_eps(eps)
        self.eps = eps
        self.indices = torch.empty(0, dtype=torch.int64, device=device)
        self.keys = torch.empty(0, width, device=device)
        self.scores = torch.empty(0, dtype=torch.float64, device=device)
        self._gram = GramSum()

    @torch.no_grad()
    def update(self, chunk: Float[Tensor, "n d"]) -> None:
        """Append keys. Raises: ShapeError if they have another width; NlsrError if one is not finite."""
        if chunk.shape[1] != self.keys.shape[1]:
            raise ShapeError(f"expected keys of width {self.keys.shape[1]}, got {tuple(chunk.shape)}")
        first = self._gram.num_rows
        self._gram.add(chunk)
        indices = torch.arange(first, self._gram.num_rows, device=self.indices.device)
        keys = torch.cat((self.keys.to(chunk.dtype), chunk))
        scores = squared_norms(keys, whitening(self._gram.total(), self._gram.num_rows))
        kept = threshold(scores, self.eps).indices
        self.indices = torch.cat((self.indices, indices))[kept]
        self.keys, self.scores = keys[kept], scores[kept]


@torch.no_grad()
def two_pass_set(chunks: Callable[[], Iterable[Float[Tensor, "n d"]]], eps: float) -> Int[Tensor, " u"]:
    """The universal set {i : leverage score >= eps} of keys that can be read twice; memory d^2 log(keys) and a chunk.

    Args:
        chunks: begins to read; at each call the same keys in the same order.
    Raises: ShapeError unless 0 < eps <= 1, or if the second reading gives fewer or more keys than the first.
    """
    check_eps(eps)
    gram = GramSum()
    for chunk in chunks():
        gram.add(chunk)
    factor = whitening(gram.total(), gram.num_rows)
    found, first = [torch.empty(0, dtype=torch.int64, device=factor.device)], 0
    for chunk in chunks():
        found.append(first + threshold(squared_norms(chunk, factor), eps).indices)
        first += len(chunk)
    if first != gram.num_rows:
        raise ShapeError(
            f"expected the same {gram.num_rows} keys twice, got {first}; each call must read from the start"
        )
    return torch.cat(found)
