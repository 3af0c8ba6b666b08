"""How much memory there is and how much a network needs: what decides between whole images and tiles."""

import os
from pathlib import Path

from nlsr.errors import UsageError
from nlsr.networks import Network

DEFAULT_SHARE = 4
"""By default a process may take a quarter of the machine's memory: a laptop's other programs stay undisturbed."""
ASSUMED_TOTAL = 8 * 2**30
SMALLEST_TILE = 64
LARGEST_TILE = 352
"""Beyond it a feature map of 64 channels exceeds 32 MiB, which the C library gives back to the system each time: twice
the time per pixel."""
UNITS = {"": 1, "B": 1, "K": 2**10, "KIB": 2**10, "M": 2**20, "MIB": 2**20, "G": 2**30, "GIB": 2**30}
UNITS |= {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def total_memory() -> int:
    """Bytes of the machine, or of the container if that has less."""
    if not hasattr(os, "sysconf"):  # Windows does not say without further libraries
        return ASSUMED_TOTAL
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = Path("/sys/fs/cgroup", name)
        if limit.is_file() and limit.read_text().strip().isdigit():
            total = min(total, int(limit.read_text()))
    return total


def default_budget() -> int:
    """Bytes; depends on the machine only, so that equal calls make equal plans."""
    return total_memory() // DEFAULT_SHARE


def parse_size(text: str) -> int:
    """Bytes of '2GiB', '500 MB', '1048576'. Raises: UsageError for anything else."""
    number = text.strip().rstrip("bBiIkKmMgG ").strip()
    unit = text.strip()[len(number) :].strip().upper()
    try:
        return int(float(number) * UNITS[unit])
    except (ValueError, KeyError):
        raise UsageError(f"--memory {text}: expected a size like 2GiB or 500MB") from None


def largest_tile(network: Network, height: int, width: int, budget: int) -> int | None:
    """The largest tile that fits the budget beside input and result; None where the whole image fits.

    Raises: UsageError if not even a small tile fits.
    """
    fixed = image_bytes(height, width, network.scale)
    per_pixel = network.bytes_per_pixel()
    if fixed + per_pixel * height * width <= budget:
        return None
    # A row of upscaled tiles waits in float32 until the next row has been blended into it.
    band = 12 * network.scale**2 * width
    tile = SMALLEST_TILE
    if fixed + per_pixel * tile**2 + band * tile > budget:
        need = fixed + per_pixel * tile**2 + band * tile
        raise UsageError(
            f"a {width}x{height} image at x{network.scale} needs at least {need / 2**20:.0f} MiB, "
            f"--memory allows {budget / 2**20:.0f} MiB"
        )
    while tile < LARGEST_TILE and fixed + per_pixel * (tile + 32) ** 2 + band * (tile + 32) <= budget:
        tile += 32
    return tile


def image_bytes(height: int, width: int, scale: int) -> int:
    """The input in float32, the 8-bit result, and the encoder's copy of it."""
    return height * width * (12 + 6 * scale**2)
