"""The Gram matrix of a long list of rows, with the same bits however the rows arrive.

Floating-point sums depend on their order. Here rows form blocks by their position, and blocks are summed along a
binary tree over their positions: one call, a stream in chunks of any size and many processes all compute the same sum
(on equal machines with equal numbers of threads, for these decide the order within a block).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, reduce
from itertools import combinations_with_replacement
from math import comb, factorial, prod

import torch
from jaxtyping import Float
from torch import Tensor

from nlsr.errors import NotFiniteError

BLOCK = 4096
"""Rows that exist in double precision at a time, and the leaves of the tree."""


@dataclass(frozen=True)
class Node:
    """The Gram matrix of blocks index * 2**level to (index + 1) * 2**level - 1."""

    level: int
    index: int
    gram: Tensor


class GramSum:
    """K^T K of the rows seen so far, in double precision; memory d^2 log(rows) and one block of rows.

    Powers above one take the rows `lift`ed.
    """

    def __init__(self, first_block: int = 0, *, power: int = 1) -> None:
        """
        Args:
            first_block: the position of the first row, in blocks: 0 unless other processes hold the rows before it.
            power: each row is lifted to this power.
        """
        self.power = power
        self.nodes: list[Node] = []
        self.unfinished = torch.empty(0, 0)
        """Rows of the block that is not full yet."""
        self._first = self._next = first_block

    @property
    def num_rows(self) -> int:
        """How many rows were seen."""
        return (self._next - self._first) * BLOCK + self.unfinished.shape[-2]

    def add(self, rows: Float[Tensor, "*batch n d"]) -> None:
        """Append rows."""
        if self.unfinished.shape[-2]:
            rows = torch.cat((self.unfinished, rows), dim=-2)
        full = rows.shape[-2] - rows.shape[-2] % BLOCK
        for block in rows[..., :full, :].split(BLOCK, dim=-2) if full else ():
            self.push([Node(0, self._next, self._product(block))])
        # A view would keep the whole chunk alive.
        self.unfinished = rows[..., full:, :].clone()

    def push(self, nodes: Iterable[Node]) -> None:
        """Append blocks that were summed elsewhere; they follow those seen so far, none of which may be unfinished."""
        for node in nodes:
            self._next = (node.index + 1) << node.level
            while self.nodes and node.index % 2 and self.nodes[-1].level == node.level:
                node = Node(node.level + 1, node.index // 2, self.nodes.pop().gram + node.gram)  # noqa: PLW2901
            self.nodes.append(node)

    def total(self) -> Float[Tensor, "*batch d d"]:
        """The Gram matrix of all rows seen so far."""
        grams = [node.gram for node in self.nodes]
        if self.unfinished.shape[-2] or not grams:
            grams.append(self._product(self.unfinished))
        return reduce(torch.add, grams)

    def _product(self, rows: Tensor) -> Tensor:
        lifted = lift(rows.double(), self.power)
        return lifted.mT @ lifted


def whitening(gram: Float[Tensor, "*batch d d"], num_rows: int, *, ridge: float = 0.0) -> Float[Tensor, "*batch d d"]:
    """W such that the squared norm of k W is k^T (K^T K + ridge)^+ k, for K of `num_rows` rows.

    Without a ridge, eigenvalues below max(rows, d) * machine epsilon of the largest count as zero.

    Raises: NotFiniteError if the Gram matrix is not finite.
    """
    if not gram.isfinite().all():
        raise NotFiniteError("expected keys whose squares are finite, got NaN or infinity; look at what made the keys")
    values, vectors = torch.linalg.eigh(gram)
    if ridge > 0:
        return vectors * (values.clamp_min(0) + ridge).rsqrt()[..., None, :]
    cut = max(num_rows, gram.shape[-1]) * torch.finfo(gram.dtype).eps * values[..., -1:]
    kept = values > cut
    return vectors * torch.where(kept, values, 1).rsqrt().mul(kept)[..., None, :]


def squared_norms(
    rows: Float[Tensor, "*batch n d"], factor: Float[Tensor, "*batch w r"], *, power: int = 1
) -> Float[Tensor, "*batch n"]:
    """The squared norm of each (lifted) row times a matrix, in the matrix's precision, a block of rows at a time."""
    blocks = rows.split(BLOCK, dim=-2)
    return torch.cat([(lift(block.to(factor.dtype), power) @ factor).square().sum(-1) for block in blocks], dim=-1)


def lift(rows: Float[Tensor, "*batch d"], power: int) -> Float[Tensor, "*batch w"]:
    """All monomials of degree `power`, weighted so that lift(x) . lift(y) = (x . y)^power."""
    if power == 1:
        return rows
    factors, weights = _monomials(rows.shape[-1], power)
    lifted = rows.new_tensor(weights)
    for column in zip(*factors, strict=True):
        lifted = lifted * rows[..., list(column)]
    return lifted


def lifted_width(width: int, power: int) -> int:
    """Entries of a lifted row."""
    return comb(width + power - 1, power)


@cache
def _monomials(width: int, power: int) -> tuple[list[tuple[int, ...]], list[float]]:
    """The factors of each monomial, and the square root of how many orders they have."""
    factors = list(combinations_with_replacement(range(width), power))
    orders = [factorial(power) / prod(factorial(f.count(i)) for i in set(f)) for f in factors]
    return factors, [count**0.5 for count in orders]
