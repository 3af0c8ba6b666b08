"""Files that are written whole or not at all."""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from typing import BinaryIO

_UNFINISHED = re.compile(r"\..*\.[0-9a-f]{8}\.part", re.DOTALL)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends well, and vanishes when it does not."""
    name = os.fsdecode(path)
    folder, base = os.path.split(name)
    # Shortened, as the longest possible name would be too long with what is added here.
    part = os.path.join(folder, f".{base[:40]}.{secrets.token_hex(4)}.part")
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def is_unfinished(name: str) -> bool:
    """Whether a file's name is one that only writing gives, until it is complete; a killed process leaves it behind."""
    return _UNFINISHED.fullmatch(name) is not None
