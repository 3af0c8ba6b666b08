"""Multiply-adds as they are called: convolutions, matrix products, and products with a few keys per row."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode


def count(call: Callable[[], Any]) -> float:
    """The multiply-adds of a call."""
    with FlopCounterMode(display=False, custom_mapping=_FURTHER) as counter:
        call()
    return counter.get_total_flops() / 2


def _sampled_product(places: Tensor, query: Tensor, *args: Any, **options: Any) -> int:
    return 2 * places.values().numel() * query.shape[-1]


def _weighted_sum(table: Tensor, indices: Tensor, *args: Any, **options: Any) -> int:
    return 2 * indices.numel() * table.shape[-1]


def _of_tensors(formula: Any) -> Any:
    """A formula that wants the tensors, not their shapes."""
    formula._get_raw = True
    return formula


_FURTHER: dict[Any, Any] = {
    torch.ops.aten.sparse_sampled_addmm: _of_tensors(_sampled_product),
    torch.ops.aten._embedding_bag: _of_tensors(_weighted_sum),
    torch.ops.aten._embedding_bag_forward_only: _of_tensors(_weighted_sum),
}
