"""The machine that a program runs on, in words."""

import platform
from pathlib import Path


def processor() -> str:
    """Its name."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
