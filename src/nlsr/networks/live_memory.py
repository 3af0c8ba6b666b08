"""How much memory a computation of torch needs, counted and not measured."""

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive inside of it, and of what operations lay out anew for themselves.

    Equal computations give equal numbers, on every machine: plans depend on them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        copied = sum(_bytes(each) for each in tree_leaves(args)) if _lays_out_anew(func) else 0
        self.peak = max(self.peak, self._now + copied)
        return result

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._alive:
            self._alive[key] = size
            self._now += size
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._alive.pop(key, 0)


def _lays_out_anew(func: Any) -> bool:
    """Convolutions and matrix products copy what they read into the order that suits the processor."""
    return any(word in str(func) for word in ("convolution", "mm.", "addmm", "bmm", "linear", "scaled_dot_product"))


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0
