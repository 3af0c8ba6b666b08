"""How much memory a computation of torch needs, counted and not measured."""

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@torch.no_grad()
def bytes_per_pixel(upscale: Callable[[Tensor], Tensor], sides: Sequence[int], *, device: torch.device) -> int:
    """What a network needs per low-res pixel beyond its weights: the slope between two square images, or the larger
    image's share where that is more.

    Args:
        upscale: from an image (1, 3, side, side) to the larger one, channels last, as they will come.
        sides: of the two images, the smaller first; larger ones need more in proportion to their pixels.
    """
    peaks = []
    for side in sides:
        image = torch.full((1, 3, side, side), 0.5, device=device).contiguous(memory_format=torch.channels_last)
        with LiveMemory() as memory:
            upscale(image)
        peaks.append(memory.peak)
    small, large = (side**2 for side in sides)
    return math.ceil(max((peaks[1] - peaks[0]) / (large - small), peaks[1] / large))


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
