"""Memory that a process keeps."""

import platform
import subprocess
import sys

import pytest

PAGES = """
import resource
import torch
from nlsr.memory import keep_freed

if {kept}:
    keep_freed()
fresh = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    maps = [torch.zeros(2**23) for _ in range(3)]
    del maps
    fresh.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(fresh[-1])
"""


def fresh_pages(*, kept):
    """How often the system had to give memory to a process that takes 96 MiB, frees it, and takes it again."""
    done = subprocess.run([sys.executable, "-c", PAGES.format(kept=kept)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep memory")
def test_memory_that_was_freed_is_used_again():
    assert fresh_pages(kept=True) < 0.1 * fresh_pages(kept=False)
