"""Products with a matrix that has a few entries in each row: which key each entry belongs to is known, and fixed.

Three products are enough, since the derivatives of each are made of the others. None copies the keys of every query.
Knows nothing of where the keys come from.
"""

import warnings
from functools import cache, cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from nlsr.attention.streamed import budget, check_first_order

BLOCK_BYTES = 16 * 2**20
"""Memory of the copies of keys in one block, on devices that need them."""


class FewKeys:
    """Which keys each query draws on: `index[b, query, slot]`, int32, no key twice in a row."""

    def __init__(self, index: Int[Tensor, "b q k"], num_keys: int) -> None:
        """
        Args:
            num_keys: of each image, of which the index chooses.
        """
        self.index, self.num_keys = index, num_keys
        first = torch.arange(len(index), dtype=index.dtype, device=index.device)[:, None, None] * num_keys
        self._flat = (index + first).flatten(0, 1)

    def scores(self, query: Float[Tensor, "b q d"], key: Float[Tensor, "b keys d"]) -> Float[Tensor, "b q k"]:
        """The dot product of each query with each of its keys."""
        return _Scores.apply(self, query, key)

    def aggregate(self, weights: Float[Tensor, "b q k"], values: Float[Tensor, "b keys c"]) -> Float[Tensor, "b q c"]:
        """What each query receives: the values of its keys, weighted."""
        return _Aggregate.apply(self, weights, values)

    def dots(self, query: Tensor, key: Tensor) -> Tensor:
        return dots(query.flatten(0, 1), key.flatten(0, 1), self._flat).view(self.index.shape)

    def gather_sum(self, weights: Tensor, tokens: Tensor) -> Tensor:
        """For each query, the sum over its slots of weight times the token of the key."""
        sums = F.embedding_bag(self._flat, tokens.flatten(0, 1), per_sample_weights=weights.flatten(0, 1), mode="sum")
        return sums.view(*self.index.shape[:2], -1)

    def scatter_sum(self, weights: Tensor, tokens: Tensor) -> Tensor:
        """For each key, the sum over the slots that hold it of weight times the token of the query: the adjoint."""
        order, queries, firsts = self._by_key
        sums = F.embedding_bag(
            queries, tokens.flatten(0, 1), firsts, per_sample_weights=weights.flatten()[order], mode="sum"
        )
        return sums.view(len(self.index), self.num_keys, -1)

    @cached_property
    def _by_key(self) -> tuple[Tensor, Tensor, Tensor]:
        """The slots in order of their keys, the query of each, and where each key's slots begin. Made once, for all
        backward passes of all who share the affinity."""
        flat = self._flat.flatten()
        packed = sort_rows((flat.to(torch.int64) * 2**32 + torch.arange(len(flat), device=flat.device))[None])[0]
        order = packed % 2**32
        counts = torch.bincount(flat, minlength=len(self.index) * self.num_keys)
        queries = order // self.index.shape[2]
        return order, queries.to(flat.dtype), (counts.cumsum(0) - counts).to(flat.dtype)


def dots(query: Float[Tensor, "n d"], key: Float[Tensor, "m d"], index: Int[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """query[i] . key[index[i, j]], in the dtype of the queries; the index is int32.

    A product is the same number wherever it is asked for, to the last bit: a pair that is found twice can be told.
    """
    count, slots = index.shape
    if _on_cpu(query) and query.dtype in (torch.float32, torch.float64):
        # No copies: 3.6 against 12 ns per product of 16 numbers, the keys gathered in blocks that fit a cache.
        starts = torch.arange(0, index.numel() + 1, slots, dtype=index.dtype)
        nothing = query.new_zeros(index.numel())  # it is added even with the factor beta = 0, and NaN stays NaN
        size = count, len(key)
        _say_no_beta_warning()
        places = torch.sparse_csr_tensor(starts, index.flatten(), nothing, size=size, check_invariants=False)
        return torch.sparse.sampled_addmm(places, query, key.T, beta=0.0).values().view(count, slots)
    step = max(1, budget(BLOCK_BYTES) // (slots * key.shape[1] * key.element_size()))
    blocks = [slice(start, start + step) for start in range(0, count, step)]
    return torch.cat([_summed_in_order(key[index[block]] * query[block, None]) for block in blocks])


def _summed_in_order(products: Float[Tensor, "n k d"]) -> Float[Tensor, "n k"]:
    """Matrix products add in an order that depends on how many they are."""
    total = products[..., 0]
    for column in products.unbind(2)[1:]:
        total = total + column
    return total


def sort_rows(numbers: Int[Tensor, "n m"]) -> Int[Tensor, "n m"]:
    """Each row in rising order; on a CPU in place."""
    if not _on_cpu(numbers):
        return numbers.sort(dim=1).values
    numbers.numpy().sort(axis=1)  # 18 against 124 ms for 65,536 rows of 80: torch finds the indices as well
    return numbers


def _on_cpu(tensor: Tensor) -> bool:
    """Whether its numbers are in the processor's memory; tensors without numbers are of another type."""
    return tensor.device.type == "cpu" and type(tensor) is Tensor


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keys: FewKeys, query: Tensor, key: Tensor) -> Tensor:  # type: ignore[override]
        ctx.keys = keys
        ctx.save_for_backward(query, key)
        return keys.dots(query, key)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        check_first_order()
        query, key = ctx.saved_tensors
        return None, ctx.keys.gather_sum(grad, key), ctx.keys.scatter_sum(grad, query)


class _Aggregate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keys: FewKeys, weights: Tensor, values: Tensor) -> Tensor:  # type: ignore[override]
        ctx.keys = keys
        ctx.save_for_backward(weights, values)
        return keys.gather_sum(weights.to(values.dtype), values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        check_first_order()
        weights, values = ctx.saved_tensors
        full = torch.promote_types(weights.dtype, torch.float32)
        grad_weights = ctx.keys.dots(grad.to(full), values.to(full)).to(weights.dtype)
        return None, grad_weights, ctx.keys.scatter_sum(weights.to(grad.dtype), grad.contiguous())


@cache
def _say_no_beta_warning() -> None:
    """torch says once that its sparse matrices are new; what is used of them is tested here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.eye(1).to_sparse_csr()
