"""Where networks run."""

import torch

from nlsr.errors import UsageError


def device_named(name: str | torch.device) -> torch.device:
    """Raises: UsageError for a device that is not there."""
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UsageError(f"`device={name}`: not available here; try cpu") from error
