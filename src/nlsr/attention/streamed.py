"""Results of matrices too large to exist: computed in blocks, and in backward each block again."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BLOCK_BYTES = 16 * 2**20
"""Memory of one block of scores; larger blocks leave the caches of a processor and were not faster."""

Block = tuple[slice, ...]
"""Images of the batch first, then positions of the result."""


def budget(block_bytes: int) -> int:
    """The memory of one block; without bound inside `uncut()`."""
    return 2**62 if is_uncut() else block_bytes


def is_uncut() -> bool:
    """Whether operations are being counted, and nothing else matters; never while torch compiles, which reads no
    context."""
    return not torch.compiler.is_compiling() and _uncut.get()


def in_graph() -> bool:
    """Whether a graph is recorded for export. Its sizes are symbols, on which nothing may depend that Python decides,
    and what is written into a tensor that exists has no place in it: operators then compute in plain steps."""
    is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # torch 2.6 lacks the first
    return bool(is_exporting())


@contextmanager
def uncut() -> Iterator[None]:
    """Compute everything in one block: to count operations on tensors that hold no memory, in seconds."""
    token = _uncut.set(True)
    try:
        yield
    finally:
        _uncut.reset(token)


_uncut: ContextVar[bool] = ContextVar("uncut", default=False)


def query_blocks(batch: int, length: int, bytes_per_query: int) -> list[Block]:
    """Several whole images, or some queries of one, as many as `BLOCK_BYTES` hold the scores of."""
    together = max(1, budget(BLOCK_BYTES) // (bytes_per_query * length))
    step = max(1, budget(BLOCK_BYTES) // bytes_per_query)
    return [
        (slice(first, first + together), slice(start, start + step))
        for first in range(0, batch, together)
        for start in range(0, length, step)
    ]


def in_blocks(
    attend: Callable[..., Tensor], blocks: Sequence[Block], result: tuple[int, ...], *tensors: Tensor
) -> Tensor:
    """A tensor of the shape `result` whose blocks are `attend(block, *tensors)`, in the dtype of the last tensor.

    `attend` gets the tensors of the block's images alone, and autocast is off. Holds one block beside result and
    gradients, forward and backward; gradients reach the tensors, once.
    """
    return _InBlocks.apply(attend, blocks, result, *tensors)


class _InBlocks(torch.autograd.Function):
    """Writes every block to its place at once: results kept between blocks would scatter the heap."""

    @staticmethod
    def forward(ctx: Any, attend: Any, blocks: Any, result: Any, *tensors: Tensor) -> Tensor:
        ctx.attend, ctx.blocks = attend, blocks
        ctx.save_for_backward(*tensors)
        whole = tensors[-1].new_empty(result)
        with torch.autocast(whole.device.type, enabled=False):
            for block in blocks:
                whole[block] = attend(block, *(tensor[block[0]] for tensor in tensors))
        return whole

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        check_first_order()
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[3:]  # saved tensors may be unpacked only once
        totals = [torch.zeros_like(t) if need else None for t, need in zip(tensors, needed, strict=True)]
        with torch.enable_grad(), torch.autocast(grad.device.type, enabled=False):
            for block in ctx.blocks:
                parts = [tensor[block[0]].detach() for tensor in tensors]
                wanted = [part.requires_grad_() for part, need in zip(parts, needed, strict=True) if need]
                found = torch.autograd.grad(ctx.attend(block, *parts), wanted, grad[block])
                for total, gradient in zip((t for t in totals if t is not None), found, strict=True):
                    total[block[0]] += gradient
        return None, None, None, *totals


def recomputed(function: Callable[..., Any], *inputs: Any) -> Any:
    """function(*inputs); in training, what it makes on the way is made again in backward."""
    if torch.is_grad_enabled() and any(isinstance(each, Tensor) and each.requires_grad for each in inputs):
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return function(*inputs)


def check_first_order() -> None:
    """For backwards that are written by hand, and whose own gradients would silently lack terms.

    Raises: RuntimeError if gradients of gradients are asked for.
    """
    if torch.is_grad_enabled():
        raise RuntimeError("this attention has first derivatives only; leave create_graph=True out")
