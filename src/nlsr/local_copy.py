"""A folder of object storage as a folder of this machine, in a cache of bounded size."""

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import astuple
from pathlib import Path, PurePosixPath
from typing import Any

from nlsr.cache import cache_folder
from nlsr.errors import UsageError
from nlsr.memory import parse_size, shown
from nlsr.storage import entries, fetch, is_address

INDEX = "index.json"


def local_folder(word: str) -> Path:
    """The folder that is meant: for an address a copy of what lies directly in it, fetched where it is not here yet.

    Copies lie in `NLSR_CACHE`/storage and take `NLSR_STORAGE_CACHE` (4GiB) at most: those that were not asked for
    longest give way. A file is fetched again if its size, ETag or time are others.

    Raises: UsageError if nothing is there, or if it takes more than the cache may; ImageError if a file cannot be had.
    """
    if not is_address(word):
        return Path(word)
    address = word.rstrip("/")
    found = [entry for entry in entries(address) if "/" not in entry.address.removeprefix(f"{address}/")]
    most, needed = parse_size(os.environ.get("NLSR_STORAGE_CACHE") or "4GiB"), sum(entry.size for entry in found)
    if needed > most:
        raise UsageError(
            f"{address}: its files take {shown(needed)}, the cache {shown(most)} at most; allow more with "
            "NLSR_STORAGE_CACHE=8GiB, or copy the folder to this machine"
        )
    top = cache_folder() / "storage" / hashlib.sha256(address.encode()).hexdigest()[:16]
    folder = top.joinpath(*PurePosixPath(address.partition("://")[2]).parts[-2:])
    folder.mkdir(parents=True, exist_ok=True)
    _make_room(top, most - needed)
    index = top / INDEX
    known = _read(index)
    now = {entry.address.rpartition("/")[2]: list(astuple(entry)) for entry in found}
    for name in [path.name for path in folder.iterdir()]:
        if known.get(name) != now.get(name):
            (folder / name).unlink()
    for name, (source, *_) in now.items():
        if not (folder / name).exists():
            part = top / "part"
            fetch(source, part)
            part.replace(folder / name)
        index.write_text(json.dumps({each: now[each] for each in now if (folder / each).exists()}), encoding="utf-8")
    os.utime(top)
    return folder


def _read(index: Path) -> dict[str, Any]:
    """Empty where there is none, or one cut short: what it does not tell of is fetched again."""
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(index.read_text(encoding="utf-8")))
    return {}


def _make_room(own: Path, most: int) -> None:
    """Remove copies of other folders, those first that were not asked for longest, until they take no more."""
    others = sorted((path for path in own.parent.iterdir() if path != own), key=lambda path: path.stat().st_mtime)
    sizes = {path: sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) for path in others}
    for path in others:
        if sum(sizes.values()) <= most:
            return
        shutil.rmtree(path)
        del sizes[path]
