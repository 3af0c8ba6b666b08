"""Standard streams that are closed, full, or cannot show a letter: a command does its work all the same."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import IO, TextIO


class Words(io.TextIOBase):
    """A text stream in front of another one; what that one cannot take is lost, and `error` says why.

    Letters that the encoding of the stream lacks are escaped, as it is with file names on Windows.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.error: OSError | None = None
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        with self._forgiving():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._forgiving():
            self.stream.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding

    @property
    def buffer(self) -> IO[bytes]:
        """For bytes. Its errors are the caller's."""
        return self.stream.buffer

    def lose(self, error: OSError) -> None:
        """What the stream still holds, and whatever comes, goes nowhere: Python would try it again when it ends."""
        self.error = self.error or error
        with contextlib.suppress(OSError):  # a stream without a file
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lose(error)


@contextlib.contextmanager
def forgiving() -> Iterator[Words]:
    """Inside, standard output and standard error are there and never fail. Gives standard output."""
    _occupy()
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w"))  # for a stream that was closed before the process began
        words = [Words(stream or nowhere) for stream in (sys.stdout, sys.stderr)]
        stack.enter_context(contextlib.redirect_stdout(words[0]))
        stack.enter_context(contextlib.redirect_stderr(words[1]))
        try:
            yield words[0]
        finally:
            for each in words:
                each.flush()


def complaint(words: Words) -> str:
    """What a user should know of lost output; nothing if none was, or if the program that read it went away."""
    if words.error is None or words.error.errno == errno.EPIPE:
        return ""
    return f"standard output: cannot be written ({words.error.strerror}); the work itself is done"


def _occupy() -> None:
    """Put nothing where a standard stream was closed: the next file would get its number, and what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
