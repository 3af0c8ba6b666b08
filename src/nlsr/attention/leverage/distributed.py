"""Leverage scores and key sets of keys that lie on several processes, in rank order (`torch.distributed`).

Sets equal those of one process that holds all keys. So do the bits of the Gram matrix, on equal machines with equal
numbers of threads, and those of the scores where the keys are divided at multiples of `gram.BLOCK`. Each process sends
d^2 log(keys) numbers and less than two blocks of keys, then its part of the set. Without a process group, one process
holds all keys.

Source: Kannan et al., "LevAttention", ICLR 2025, arXiv 2410.05462.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed

from nlsr.attention.leverage.gram import BLOCK, GramSum, Node, squared_norms, whitening
from nlsr.attention.leverage.selection import threshold, top_r


@torch.no_grad()
def distributed_leverage_scores(
    key: Float[Tensor, "n d"], *, group: "distributed.ProcessGroup | None" = None
) -> Float[Tensor, " n"]:
    """The leverage scores of this process's keys among the keys of all processes; all must call.

    Raises: NlsrError, in every process, if a key is not finite in any.
    """
    first = _first_index(len(key), group)
    # Blocks are counted from the first key of the first process, so that sums do not depend on how keys are divided.
    head, rest = key.tensor_split([min(-first % BLOCK, len(key))])
    part = GramSum(-(-first // BLOCK))
    part.add(rest)
    gram = GramSum()
    for head_of_rank, nodes, tail in _gather((head.cpu(), _on_cpu(part.nodes), part.unfinished.cpu()), group):
        gram.add(head_of_rank)
        gram.push(nodes)
        gram.add(tail)
    factor = whitening(gram.total(), gram.num_rows).to(key.device)
    if _is_distributed():
        distributed.broadcast(factor, group=group, group_src=0)
    return torch.cat((squared_norms(head, factor), squared_norms(rest, factor)))


@torch.no_grad()
def distributed_threshold(
    scores: Float[Tensor, " n"], eps: float, *, group: "distributed.ProcessGroup | None" = None
) -> Int[Tensor, " u"]:
    """All keys of all processes whose score is at least eps, the same in each: indices count through the ranks.

    Raises: ShapeError unless 0 < eps <= 1.
    """
    local = threshold(scores, eps).indices + _first_index(len(scores), group)
    return torch.cat(_gather(local.cpu(), group)).to(scores.device)


@torch.no_grad()
def distributed_top_r(
    scores: Float[Tensor, " n"], r: int, *, group: "distributed.ProcessGroup | None" = None
) -> Int[Tensor, " r"]:
    """The r keys of largest score of all processes, the same in each: indices count through the ranks.

    Raises: ShapeError if r < 1.
    """
    local = top_r(scores, r).indices
    found = _gather((scores[local].cpu(), (local + _first_index(len(scores), group)).cpu()), group)
    best, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
    return indices[top_r(best, r).indices].to(scores.device)


def _first_index(count: int, group: Any) -> int:
    """How many keys the processes before this one hold."""
    rank = distributed.get_rank(group) if _is_distributed() else 0
    return sum(_gather(count, group)[:rank])


def _on_cpu(nodes: list[Node]) -> list[Node]:
    return [Node(node.level, node.index, node.gram.cpu()) for node in nodes]


def _gather(value: Any, group: Any) -> list[Any]:
    """The values of all processes, in rank order."""
    if not _is_distributed():
        return [value]
    values = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(values, value, group=group)
    return values


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
