"""Whether anything of this process reaches for a network: Python itself tells of every attempt, and Linux of those of
native code."""

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


FATAL = """
import ctypes, platform, struct
number = {"x86_64": 41, "aarch64": 198}[platform.machine()]  # of the system call socket
load, equal, give = 0x20, 0x15, 0x06  # a word of what was called, a comparison, an answer
program = [
    (load, 0, 0, 0), (equal, 0, 4, number),  # another call is allowed
    (load, 0, 0, 16), (equal, 1, 0, 2), (equal, 0, 1, 10),  # of which family: IPv4, IPv6
    (give, 0, 0, 0x80000000), (give, 0, 0, 0x7FFF0000),  # the process is killed, or goes on
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
head = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, head, 0, 0) == 0, ctypes.get_errno()
"""
"""A program begins with this to be killed (by SIGSYS) as soon as it, or native code that it calls, makes a socket."""
