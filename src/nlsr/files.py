"""Files that are written whole or not at all."""

import contextlib
import errno
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_UNFINISHED = re.compile(r"\..*\.[0-9a-f]{8}\.part", re.DOTALL)
_MOST_WRITERS = 16
"""Processes that may write one file at the same time; the last of them to end wins."""
_FORGOTTEN = 3600
"""Seconds after which a file that cannot be locked counts as left behind."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends well, and vanishes when it does not.

    A symbolic link is followed: the file that it leads to is replaced, or made. A file that is replaced passes on its
    permissions, and its owner where the system allows that. What a killed process left behind of the same file is
    removed; what a running one writes is left alone.

    Raises: OSError.
    """
    name = followed(path)
    part, descriptor = _opened_beside(name)
    with open(descriptor, "wb") as file:  # and locked until it has its name or is gone
        try:
            replaced = _status(name)
            if replaced is not None:
                _take_over(part, replaced)
            yield file
            file.flush()
            os.fsync(file.fileno())
            if replaced is not None:
                _set_mode(part, replaced.st_mode)
            if fcntl is None:
                file.close()  # Windows moves no open file
            os.replace(part, name)
        except BaseException:
            with contextlib.suppress(OSError):
                if fcntl is None:
                    file.close()
                os.unlink(part)
            raise


def followed(path: str | os.PathLike[str]) -> str:
    """The file that a path leads to through symbolic links, whether it exists or not. Raises: OSError for a circle."""
    name = os.fsdecode(path)
    if not os.path.islink(name):
        return name
    with contextlib.suppress(FileNotFoundError):
        os.stat(name)  # says that links lead in a circle
    return os.path.realpath(name)


def is_unfinished(name: str) -> bool:
    """Whether a file's name is one that only writing gives, until it is complete; a killed process leaves it behind."""
    return _UNFINISHED.fullmatch(name) is not None


def remove_abandoned(part: str | os.PathLike[str]) -> None:
    """Remove an unfinished file if the process that wrote it is gone, and if that is possible.

    A running process holds a lock on what it writes, which the system drops with the process; where there are no
    locks, time tells.
    """
    with contextlib.suppress(OSError):
        if fcntl is None:
            if _is_old(os.stat(part)):
                os.unlink(part)  # refused for a file that is open
            return
        with open(part, "r+b") as file:
            status = os.fstat(file.fileno())
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES) or not _is_old(status):
                    return
            if os.path.samestat(status, os.stat(part)):  # by now its name may be that of another
                os.unlink(part)


def _opened_beside(name: str) -> tuple[str, int]:
    """A new file in the same folder, locked, and its descriptor. The names it may have are few, so that a later run
    finds what an earlier one left without searching the folder."""
    folder, base = os.path.split(name)
    # Shortened, as the longest possible name would be too long with what is added here.
    start = f".{base[:40]}.{hashlib.sha256(os.fsencode(base)).hexdigest()[:7]}"
    parts = [os.path.join(folder, f"{start}{number:x}.part") for number in range(_MOST_WRITERS)]
    for part in filter(os.path.lexists, parts):
        remove_abandoned(part)
    for part in parts:
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
            if _locked(descriptor, part):
                return part, descriptor
            os.close(descriptor)
    raise OSError(errno.EBUSY, f"{_MOST_WRITERS} processes write it already")


def _locked(descriptor: int, part: str) -> bool:
    """Lock a file; whether it is still there: before it was locked it may have seemed left behind to another."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)  # others: a file system without locks
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(part))
    except FileNotFoundError:
        return False


def _status(name: str) -> os.stat_result | None:
    try:
        return os.stat(name)
    except OSError:
        return None


def _take_over(part: str, replaced: os.stat_result) -> None:
    """Owner and permissions of a file, before anything is written that others may not read; its writer may write."""
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):
            os.chown(part, replaced.st_uid, replaced.st_gid)
    _set_mode(part, replaced.st_mode | stat.S_IWUSR)


def _set_mode(part: str, mode: int) -> None:
    with contextlib.suppress(OSError):  # some file systems have no permissions
        os.chmod(part, stat.S_IMODE(mode))


def _is_old(status: os.stat_result) -> bool:
    return status.st_mtime < time.time() - _FORGOTTEN


def remove_all_abandoned(folder: str | os.PathLike[str]) -> None:
    """Remove what processes that are gone left unfinished in a folder, as far as that is possible."""
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            if is_unfinished(entry.name):
                remove_abandoned(entry)


def sha256(path: str | os.PathLike[str]) -> str:
    """Of a file's content, in hexadecimal. Raises: OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
