"""What a number was measured on."""

import os
import platform

import torch

from nlsr.machine import processor
from nlsr.memory import total_memory


def facts(device: str, threads: int) -> dict[str, str | int | float]:
    """The machine in words, for the head of every result."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else processor()
    return {
        "device": name,
        "threads": threads,
        "cores": os.cpu_count() or 0,
        "memory_gib": round(total_memory() / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
