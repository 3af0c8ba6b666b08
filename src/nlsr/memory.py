"""How much memory there is, how much this process used, and how running out of it is recognised. Knows nothing of
networks and pictures."""

import contextlib
import ctypes
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch

from nlsr.errors import UsageError

DEFAULT_SHARE = 4
"""By default a process may take a quarter of the machine's memory: a laptop's other programs stay undisturbed."""
UNITS = {"": 1, "B": 1, "K": 2**10, "KIB": 2**10, "M": 2**20, "MIB": 2**20, "G": 2**30, "GIB": 2**30}
UNITS |= {"KB": 10**3, "MB": 10**6, "GB": 10**9}

KEPT_BYTES = 2**30
"""Address space in large pages for memory that is used again and again; a training on a processor needs less."""
LARGE_PAGE = 2**21
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as malloc.h has them
MADV_HUGEPAGE = 14  # as sys/mman.h of Linux has it


def total_memory() -> int:
    """Bytes of the machine, or of the container if that has less."""
    if not hasattr(os, "sysconf"):  # Windows
        return _windows_memory()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = Path("/sys/fs/cgroup", name)
        if limit.is_file() and limit.read_text().strip().isdigit():
            total = min(total, int(limit.read_text()))
    return total


class _WindowsMemory(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        ("others", ctypes.c_uint64 * 6),
    )


def _windows_memory() -> int:
    status = _WindowsMemory(length=ctypes.sizeof(_WindowsMemory))
    windows: Any = ctypes
    if not windows.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        raise windows.WinError()
    return int(status.total)


def default_budget(device: torch.device | None = None) -> int:
    """Bytes; depends on the machine and the device only, so that equal calls make equal plans."""
    total = total_memory()
    if device is not None and device.type != "cpu":
        properties = getattr(getattr(torch, device.type, None), "get_device_properties", None)
        total = min(total, properties(device).total_memory) if properties else total
    return total // DEFAULT_SHARE


def reset_peak() -> int:
    """Start a new peak where the system can (Linux); returns the bytes in use now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def peak_memory() -> int:
    """Bytes; since the last reset, or since the start of the process; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows does not say
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def keep_freed() -> None:
    """Keep what is freed for later, and up to `KEPT_BYTES` of it in large pages: for a process that needs the same
    memory in step after step. With fresh, small pages for each step, a training takes 3 to 5 % more time.

    Only address space is reserved; pages are taken when they are used. Does nothing where the C library is not glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        library.free.argtypes = [ctypes.c_void_p]
        library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        kept = library.mallopt(M_MMAP_THRESHOLD, 2**31 - 1) and library.mallopt(M_TRIM_THRESHOLD, -1)
        start = library.malloc(KEPT_BYTES) if kept else None
        if start:
            first, end = -(-start // LARGE_PAGE) * LARGE_PAGE, (start + KEPT_BYTES) // LARGE_PAGE * LARGE_PAGE
            library.madvise(first, end - first, MADV_HUGEPAGE)
            library.free(start)


def give_back() -> None:
    """Free memory to the system, which the C library would keep for later."""
    with contextlib.suppress(OSError):  # only glibc keeps it
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def parse_size(text: str) -> int:
    """Bytes of '2GiB', '500 MB', '1048576'. Raises: UsageError for anything else."""
    number = text.strip().rstrip("bBiIkKmMgG ").strip()
    unit = text.strip()[len(number) :].strip().upper()
    try:
        size = int(float(number) * UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size < 1:
        raise UsageError(f"`memory={text}`: expected a size like 2GiB or 500MB")
    return size


def shown(size: float) -> str:
    """Bytes for people: '1.4 GiB', '350 MiB'; rounded up, so that who allows what is said allows enough."""
    if size < 2**30:
        return f"{math.ceil(size / 2**20)} MiB"
    return f"{math.ceil(100 * size / 2**30) / 100:g} GiB"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in Python's words, torch's or those of the libraries below it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    told = ("out of memory", "allocate memory", "bad_alloc", "bad allocation", "could not create a memory")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in told)
