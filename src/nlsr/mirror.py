"""An axis that is continued by its mirror image."""

import torch
from torch import Tensor


def mirrored(start: int, stop: int, size: int, device: torch.device | None = None) -> Tensor:
    """The indices start..stop-1 of such an axis: ... 1 0 | 0 1 2 ... n-1 | n-1 ..."""
    period = torch.full((1,), 2 * size, device=device)  # a tensor, as engines that run graphs divide by no symbol
    index = torch.arange(start, stop, device=device) % period
    return torch.minimum(index, period - 1 - index)
