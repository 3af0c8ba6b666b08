"""The folder of what can be had again: downloaded weights, measured needs of memory."""

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """`NLSR_CACHE` if that is set, else the folder `nlsr` where the system keeps a user's caches. It need not exist."""
    if chosen := os.environ.get("NLSR_CACHE"):
        return Path(chosen)
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "nlsr"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / "nlsr" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "nlsr"
