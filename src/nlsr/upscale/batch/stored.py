"""The record of an output folder on object storage, where nothing can be appended and nobody holds a lock.

Lines are collected and put there as pieces, `.nlsr-batch/*.jsonl`, a few seconds apart; what was not put when the
process was killed is done again. That a process writes there is said by a file that it renews.
"""

import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from nlsr import storage
from nlsr.errors import ImageError, NlsrError, UsageError
from nlsr.upscale.batch.manifest import NAME, Manifest
from nlsr.upscale.batch.staging import Staging

PIECES = ".nlsr-batch"
PAUSE = 5
"""Seconds between pieces."""
AT_ONCE = 32
"""Pieces that are asked for at the same time: a job of days leaves thousands."""
FORGOTTEN = 120
"""Seconds after which a process that did not renew its file is gone."""


def fetch_record(staging: Staging, folder: Path) -> None:
    """Bring what is recorded at the address of a folder."""
    address = staging.address(folder)
    assert address is not None
    pieces = f"{address}/{PIECES}"
    folder.mkdir(parents=True, exist_ok=True)
    there = storage.entries(pieces) if storage.is_folder(pieces) else []
    addresses = [entry.address for entry in there if entry.address.endswith(".jsonl")]
    with (folder / NAME).open("wb") as file, ThreadPoolExecutor(AT_ONCE) as threads:
        file.writelines(threads.map(storage.read_bytes, addresses))


class StoredManifest(Manifest):
    """A manifest whose folder is the place of an address."""

    def __init__(self, staging: Staging, folder: Path, *settings: Any, resume: bool) -> None:
        super().__init__(folder, *settings, resume=resume)
        address = staging.address(folder)
        assert address is not None
        self._staging, self._pieces = staging, f"{address}/{PIECES}"
        self._lock_address = f"{self._pieces}/writing"
        self._pending: list[bytes] = []
        self._number, self._started = 0, time.time_ns()
        self._ended, self._guard = threading.Event(), threading.Lock()
        self._failure: NlsrError | None = None
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "StoredManifest":
        """Raises: UsageError if another process writes there, TargetError if this one may not."""
        self._claim()
        try:
            fetch_record(self._staging, self.folder)
            self._staging.look(self.folder)
            super().__enter__()
            self._put()
        except BaseException:
            storage.remove(self._lock_address)
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        super().__exit__(kind, error, trace)
        try:
            self._put()
            storage.remove(self._lock_address)
        except NlsrError:
            if kind is None:
                raise

    def begin(self, *targets: Path) -> None:
        if not all(map(self.knows, targets)):
            super().begin(*targets)
            self._put()

    def _append(self, lines: list[dict[str, Any]]) -> None:
        super()._append(lines)
        if self._failure is not None:
            raise self._failure
        with self._guard:
            self._pending += [json.dumps(line).encode() + b"\n" for line in lines]

    def _put(self) -> None:
        with self._guard:
            if self._pending:
                piece = f"{self._pieces}/{self._started}-{self._number:08}.jsonl"
                storage.write_bytes(piece, b"".join(self._pending))
                self._pending.clear()
                self._number += 1

    def _claim(self) -> None:
        if storage.create(self._lock_address, self._sign()):
            return
        other = self._other()
        on_this_machine = other.get("host") == socket.gethostname()
        gone = not _runs(other["pid"]) if on_this_machine else time.time() - other.get("time", 0) > FORGOTTEN
        if not gone:
            where = self._pieces.removesuffix(f"/{PIECES}")
            raise UsageError(
                f"{where}: another nlsr writes there, or did until a moment ago; wait two minutes or choose another"
            )
        storage.write_bytes(self._lock_address, self._sign())

    def _other(self) -> dict[str, Any]:
        try:
            found = json.loads(storage.read_bytes(self._lock_address))
            return found if isinstance(found, dict) else {}
        except (ImageError, ValueError):  # it has just ended
            return {}

    def _sign(self) -> bytes:
        return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}).encode()

    def _renew(self) -> None:
        rounds = 0
        while not self._ended.wait(PAUSE):
            try:
                self._put()
                if rounds % 4 == 0:
                    storage.write_bytes(self._lock_address, self._sign())
            except NlsrError as error:
                self._failure = error
                return
            rounds += 1


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
