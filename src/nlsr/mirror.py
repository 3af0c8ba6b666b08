"""An axis that is continued by its mirror image."""

import torch
from torch import Tensor


def mirrored(start: int, stop: int, size: int, device: torch.device | None = None) -> Tensor:
    """The indices start..stop-1 of such an axis: ... 1 0 | 0 1 2 ... n-1 | n-1 ..."""
    index = torch.arange(start, stop, device=device) % (2 * size)
    return torch.minimum(index, 2 * size - 1 - index)
