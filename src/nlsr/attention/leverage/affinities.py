"""Attention on a set of keys: every query draws on the same few keys, so two small dense products do it all.

Linear in queries and keys. Which keys are in the set is constant for differentiation.

Source: Kannan et al., "LevAttention", ICLR 2025, arXiv 2410.05462.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from nlsr.attention.affinity import Affinity, Keep, matching_dtype
from nlsr.attention.leverage.gram import GramSum, lift, lifted_width
from nlsr.attention.leverage.scores import check_power
from nlsr.attention.leverage.selection import KeySet
from nlsr.attention.streamed import Block, in_blocks, query_blocks

Denominator = Literal["exact", "restricted"]
"""What power attention divides by: the sum over all keys, or over those in the set."""


class SetAffinity(Affinity):
    """What affinities on a set share. *stored* keeps queries * set weights, *recomputed* makes them in blocks."""

    reach_is = "in the key set"

    def __init__(
        self,
        query: Float[Tensor, "b q d"],
        key: Float[Tensor, "b k d"],
        key_set: KeySet,
        *,
        keep: Keep,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(query.shape[1], key.shape[1], size=size)
        self.query, self.key_set = query, key_set
        chosen = key_set.gather(key)
        self._on_set = (chosen,) if key_set.present is None else (chosen, key_set.present)
        self._stored = self._weights(query, *self._on_set) if keep == "stored" else None

    def aggregate(self, values: Float[Tensor, "b keys c"]) -> Float[Tensor, "b queries c"]:
        chosen = self.key_set.gather(values)
        if self._stored is not None:
            return self._stored.to(values.dtype) @ chosen

        def attend(query: Tensor, *on_set: Tensor) -> Tensor:
            return self._weights(query, *on_set[:-1]).to(values.dtype) @ on_set[-1]

        return _streamed(attend, self.query, *self._on_set, chosen, width=chosen.shape[1], channels=chosen.shape[2:])

    def rows(self, queries: Int[Tensor, " q"]) -> Float[Tensor, "b q keys"]:
        weights = self._weights(self.query[:, queries.to(self.query.device)], *self._on_set)
        return self.key_set.scatter(weights, self.num_keys)

    def reach(self, queries: Int[Tensor, " q"]) -> Bool[Tensor, " keys"]:
        indices, present = self.key_set.indices, self.key_set.present
        return self.marked(indices if present is None else indices[present])

    @abstractmethod
    def _weights(self, query: Tensor, key: Tensor, present: Tensor | None = None) -> Tensor:
        """(b, q, d), (b, r, d), (b, r) -> (b, q, r): how strongly queries draw on the keys of their image's set."""


class KeySetAffinity(SetAffinity):
    """softmax over the set of scale * query . key; rows sum to one, or are zero if the set is empty."""

    def __init__(
        self,
        query: Float[Tensor, "b q d"],
        key: Float[Tensor, "b k d"],
        key_set: KeySet,
        *,
        scale: float,
        keep: Keep = "recomputed",
        size: tuple[int, int] | None = None,
    ) -> None:
        """
        Args:
            scale: factor of the scores; d^(-1/2) in transformers.
            size: see `Affinity`.
        """
        dtype = matching_dtype(query.dtype)
        super().__init__(scale * query.to(dtype), key.to(dtype), key_set, keep=keep, size=size)

    def _weights(self, query: Tensor, key: Tensor, present: Tensor | None = None) -> Tensor:
        scores = _scores(query, key)
        if present is None:
            return F.softmax(scores, dim=-1)
        # Not -inf: an empty set must give zeros, not NaN.
        scores = scores.masked_fill(~present[:, None], torch.finfo(scores.dtype).min)
        return F.softmax(scores, dim=-1) * present[:, None]


class PowerAffinity(SetAffinity):
    """|query . key_j|^p / D for j in the set; D sums |query . key_l|^p over all keys, or over the set.

    With the exact denominator, entries equal those of attention on all keys, and gradients reach all keys; with a
    universal set, what is missing of each row consists of entries below its eps. A query that is orthogonal to all keys
    but for rounding gets a row of zeros.

    For even p the exact denominator costs C(d + p/2 - 1, p/2)^2 per query (p = 2: d^2) where that is less than a
    pass over the keys; otherwise it is summed over all keys, in quadratic time and linear memory.
    """

    def __init__(
        self,
        query: Float[Tensor, "b q d"],
        key: Float[Tensor, "b k d"],
        key_set: KeySet,
        *,
        p: int | float,
        denominator: Denominator = "exact",
        keep: Keep = "recomputed",
    ) -> None:
        """Raises: ShapeError if p < 1."""
        check_power(p)
        self.p = p
        dtype = matching_dtype(query.dtype)
        # Entries depend on neither length: with these, no power overflows.
        query, key = query.to(dtype), key.to(dtype)
        query = query / _nonzero(query.detach().norm(dim=-1, keepdim=True))
        key = key / _nonzero(key.detach().norm(dim=-1, keepdim=True).amax(1, keepdim=True))
        counted = key if denominator == "exact" else key_set.gather(key)
        total = _denominators(query, counted, p)
        # |q . k|^p / D = |(q / D^(1/p)) . k|^p
        query = query * torch.where(total > 0, _nonzero(total) ** (-1 / p), 0)[..., None]
        super().__init__(query, key, key_set, keep=keep)

    def _weights(self, query: Tensor, key: Tensor, present: Tensor | None = None) -> Tensor:
        # The key of a place where nothing is present is zero, and so is its power.
        return _powers(query, key, self.p)


def _denominators(query: Tensor, key: Tensor, p: int | float) -> Tensor:
    """(b, q): the sum over keys of |query . key|^p, 0 if it is nothing but rounding."""
    width = lifted_width(key.shape[2], int(p) // 2) if p % 2 == 0 else None
    if width is not None and width**2 <= key.shape[1] * key.shape[2]:
        total, rounding = _quadratic_form(query, key, int(p) // 2), width * torch.finfo(torch.float64).eps
    else:
        total = _streamed(lambda part, keys: _powers(part, keys, p).sum(-1), query, key, width=key.shape[1])
        rounding = (key.shape[2] * torch.finfo(key.dtype).eps) ** p
    # Cauchy-Schwarz: no sum is larger than this, for the queries are unit vectors.
    largest = key.detach().norm(dim=-1).double().pow(p).sum(1, keepdim=True)
    return total * (total.detach() > rounding * largest)


def _quadratic_form(query: Tensor, key: Tensor, power: int) -> Tensor:
    """The sum over keys of (query . key)^(2 power) through the Gram matrix of the lifted keys, in double precision."""
    gram = GramSum(power=power)
    gram.add(key)

    def form(part: Tensor, gram: Tensor) -> Tensor:
        lifted = lift(part.double(), power)
        return ((lifted @ gram) * lifted).sum(-1)

    total = gram.total()
    return _streamed(form, query, total, width=4 * total.shape[-1]).to(query.dtype)


def _streamed(
    function: Callable[..., Tensor], query: Tensor, *others: Tensor, width: int, channels: Sequence[int] = ()
) -> Tensor:
    """function(query, *others) without the `width` numbers that it makes for each query on the way."""
    batch, length = query.shape[:2]
    blocks = query_blocks(batch, length, query.element_size() * max(1, width))

    def attend(block: Block, query: Tensor, *others: Tensor) -> Tensor:
        return function(query[:, block[1]], *others)

    return in_blocks(attend, blocks, (batch, length, *channels), query, *others)


def _powers(query: Tensor, key: Tensor, p: int | float) -> Tensor:
    return _scores(query, key).abs().pow(p)


def _scores(query: Tensor, key: Tensor) -> Tensor:
    with torch.autocast(query.device.type, enabled=False):
        return query @ key.mT


def _nonzero(lengths: Tensor) -> Tensor:
    return torch.where(lengths > 0, lengths, 1)
