"""The private folder of a server: a folder for each job, with the upload, the result and a record of the job.

It is removed when the server ends. What a killed server left behind is taken over by the next one. No name in it comes
from a client.
"""

import contextlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from nlsr.cache import cache_folder
from nlsr.files import replacing

try:
    import fcntl
except ImportError:  # Windows, where no file can be removed that is open
    fcntl = None  # type: ignore[assignment]

LOCK, RECORD = "lock", "record.json"


class Store:
    """A folder that only this user can look into, and that is locked as long as its server runs."""

    def __init__(self, parent: Path | None = None) -> None:
        """Raises: OSError if no folder can be made."""
        self._parent = parent or cache_folder() / "serve"
        self._parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = self._parent / secrets.token_hex(8)
        self.folder.mkdir(mode=0o700)
        self._lock = open(self.folder / f"{LOCK}.new" if fcntl else self.folder / LOCK, "wb")  # noqa: SIM115 - held
        if fcntl is not None:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            os.replace(self.folder / f"{LOCK}.new", self.folder / LOCK)  # never seen unlocked

    def new(self) -> Path:
        """A new folder for a job, whose name is the id of the job. Raises: OSError."""
        folder = self.folder / secrets.token_urlsafe(15)
        folder.mkdir(mode=0o700)
        return folder

    def write(self, folder: Path, record: dict[str, Any]) -> None:
        """Raises: OSError."""
        with replacing(folder / RECORD) as file:
            file.write(json.dumps(record).encode())

    def take_over(self) -> list[tuple[Path, dict[str, Any]]]:
        """The jobs of servers that were killed: the folder of each, which is here now, and its record."""
        found = []
        for folder in sorted(self._parent.iterdir()):
            if folder != self.folder and _is_abandoned(folder):
                for job in sorted(folder.iterdir()):
                    with contextlib.suppress(OSError, ValueError):
                        record = json.loads((job / RECORD).read_bytes())
                        os.replace(job, self.folder / job.name)
                        found.append((self.folder / job.name, record))
                shutil.rmtree(folder, ignore_errors=True)
        return found

    def close(self) -> None:
        self._lock.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        if fcntl is None:
            os.unlink(folder / LOCK)
            return True
        with open(folder / LOCK, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False
