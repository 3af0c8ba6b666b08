"""What is finished in an output folder, so that an interrupted batch can be resumed.

A file of JSON lines that is only ever appended to: what decides about results, a line before a result is put in its
place, a line when it is there. Each is on the disk before the work continues, so after a crash at any moment a result
is either finished and said to be so, or done again. A line that was cut short does not
count. The system drops the lock when the process ends.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from nlsr.errors import ImageError, TargetError, UsageError
from nlsr.files import remove_all_abandoned, sha256
from nlsr.images import one_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".nlsr-batch.jsonl"
_BEYOND = 2**30
"""Windows locks bytes, which nobody else can read then; so one is locked that is never written."""


@dataclass(frozen=True)
class Content:
    """A file as it was read, whatever its name and its time; or what a storage says of it.

    Args:
        sha256: of a file of this machine. etag, modified: of one elsewhere, as its storage calls it.
    """

    size: int
    sha256: str = ""
    etag: str = ""
    modified: str = ""

    @classmethod
    def of(cls, path: Path) -> "Content":
        """Raises: OSError."""
        return cls(path.stat().st_size, sha256(path))


@dataclass(frozen=True)
class _Result:
    """What is said of one that is finished."""

    settings: str
    input: Content
    output: Content
    mtime_ns: int


class Record:
    """What is known of the results of one folder, and what is to be written down of them."""

    def __init__(self, folder: Path, settings: dict[str, Any], *, resume: bool) -> None:
        """As for `Manifest`."""
        self.folder, self.settings, self.resume = folder, settings, resume
        self._finished: dict[str, _Result] = {}
        self._begun: set[str] = set()
        self._key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def finished(self, target: Path, source: Content, stored: Content | None = None) -> bool:
        """Whether a result is there, complete, and of this picture with these settings.

        A result whose size and time are those of then is not read again.

        Args:
            stored: what a storage says of the result, if it is at one.
        """
        result = self._finished.get(self._place(target))
        if not self.resume or result is None or (result.settings, result.input) != (self._key, source):
            return False
        if stored is not None:
            return (stored.size, stored.etag) == (result.output.size, result.output.etag)
        try:
            status = target.stat()
            if status.st_size != result.output.size:
                return False
            return status.st_mtime_ns == result.mtime_ns or Content.of(target) == result.output
        except OSError:
            return False

    def may_replace(self, target: Path) -> bool:
        """Whether what lies there was written by an interrupted batch that is now resumed, and is nobody else's."""
        return self.resume and self.knows(target)

    def knows(self, target: Path) -> bool:
        """Whether this batch or one before it wrote what lies there."""
        place = self._place(target)
        return place in self._begun or place in self._finished

    def begin(self, *targets: Path) -> None:
        """To be called before results are put in their places."""
        places = [place for place in map(self._place, targets) if place not in self._begun]
        self._begun.update(places)
        self._append([{"begun": place} for place in places])

    def finish(self, target: Path, source: Content, plan: dict[str, Any], stored: Content | None = None) -> None:
        """To be called when it is there. `stored` is what a storage says of it."""
        line = {
            "done": self._place(target),
            "settings": self._key,
            "input": asdict(source),
            "plan": plan,
            "output": asdict(stored or Content.of(target)),
            "mtime_ns": 0 if stored else target.stat().st_mtime_ns,
        }
        self._append([line])

    def _append(self, lines: list[dict[str, Any]]) -> None:
        raise NotImplementedError

    def _take(self, line: dict[str, Any]) -> None:
        if "done" in line:
            contents = Content(**line["input"]), Content(**line["output"])
            self._finished[line["done"]] = _Result(line["settings"], *contents, line["mtime_ns"])
        elif "begun" in line:
            self._begun.add(line["begun"])

    def _place(self, target: Path) -> str:
        return target.relative_to(self.folder).as_posix()


class Part(Record):
    """What is known of some results, for a process that makes them and has no hold of the manifest.

    Args:
        ours: what a manifest has begun for this batch: who tries again after a process has died finds its results.
    """

    def __init__(self, manifest: "Manifest", targets: Sequence[Path], ours: set[Path]) -> None:
        super().__init__(manifest.folder, manifest.settings, resume=manifest.resume)
        places = {self._place(target): target for target in targets}
        self._finished = {place: manifest._finished[place] for place in places if place in manifest._finished}
        self._begun = {place for place in places if place in manifest._begun}
        self._ours = {place for place, target in places.items() if target in ours}
        self.lines: list[dict[str, Any]] = []

    def may_replace(self, target: Path) -> bool:
        return self._place(target) in self._ours

    def begin(self, *targets: Path) -> None:
        """Nothing: the manifest has said so before the process was asked."""

    def _append(self, lines: list[dict[str, Any]]) -> None:
        self.lines += lines


class Manifest(Record):
    """The record of one output folder, to be used as a context; one process at a time has it.

    Args:
        settings: what decides about results beside the picture: model, size, quality and so on. JSON values.
        conditions: under which they are made, to be used again when a batch is resumed: the budget. JSON values.
        resume: continue an earlier batch: finished results stay; `clean` removes what killed processes left behind.
    """

    def __init__(
        self, folder: Path, settings: dict[str, Any], conditions: dict[str, Any] | None = None, *, resume: bool
    ) -> None:
        super().__init__(folder, settings, resume=resume)
        self.conditions = conditions or {}
        self.earlier: dict[str, Any] = {}  # the settings of the batch before

    def __enter__(self) -> "Manifest":
        """Raises: UsageError if another process writes into the folder, TargetError if this one may not."""
        path = self.folder / NAME
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            where = one_line(self.folder)
            raise TargetError(f"{where}: expected a folder to write in ({error.strerror}); choose another") from error
        try:
            self._lock()
            self._read()
            self._append([{"settings": self.settings, "conditions": self.conditions}])
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def merge(self, part: list[dict[str, Any]]) -> None:
        """Write down what was done by a process that had a `Part`."""
        if part:
            self._append(part)

    def clean(self, folders: set[Path]) -> None:
        """Remove what killed processes left half written in these folders."""
        for folder in folders:
            remove_all_abandoned(folder)

    def _lock(self) -> None:
        try:
            if fcntl is None:
                windows: Any = import_module("msvcrt")
                self._file.seek(_BEYOND)
                windows.locking(self._file.fileno(), windows.LK_NBLCK, 1)
            else:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                where = one_line(self.folder)
                raise UsageError(f"{where}: another nlsr writes there; wait for it or choose another folder") from None
            # A file system without locks: nothing to wait for.

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        for text in content.split(b"\n"):
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a line cut short
                self._take(json.loads(text))
        if content and not content.endswith(b"\n"):
            self._file.write(b"\n")

    def _take(self, line: dict[str, Any]) -> None:
        super()._take(line)
        if "conditions" in line:
            self.earlier = line["settings"]

    def _append(self, lines: list[dict[str, Any]]) -> None:
        """ASCII, so that names of any bytes come back as they were. Raises: ImageError."""
        try:
            text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
            if self._file.write(text) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            where = one_line(self.folder / NAME)
            raise ImageError(f"{where}: cannot be written ({error.strerror}); free some space") from error


def results_of(folder: Path) -> set[Path]:
    """What earlier batches wrote, or began to, in a folder; nothing if there was none."""
    found = set()
    with contextlib.suppress(OSError):
        for text in (folder / NAME).read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                line = json.loads(text)
                found.add(folder / (line.get("begun") or line["done"]))
    return found


def conditions_of(folder: Path) -> dict[str, Any]:
    """The conditions of the last batch in a folder; none if there was none."""
    found: dict[str, Any] = {}
    with contextlib.suppress(OSError):
        for text in (folder / NAME).read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                found = dict(json.loads(text)["conditions"])
    return found
