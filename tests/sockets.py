"""Whether anything of this process reaches for a network: Python itself tells of every attempt."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

EVENTS = (
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.sendto",
    "socket.bind",
    "urllib.Request",
)
_watching: list[list[str]] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event in EVENTS:
        for attempts in _watching:
            attempts.append(f"{event}{arguments!r}")


sys.addaudithook(_hook)  # cannot be taken away again, so it is there once and mostly idle


@contextmanager
def attempts() -> Iterator[list[str]]:
    """What was tried inside, in words."""
    seen: list[str] = []
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.remove(seen)
