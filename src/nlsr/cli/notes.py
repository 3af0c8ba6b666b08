"""What the library chose for the user, as one line each on standard error."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from nlsr.errors import NlsrWarning


@contextmanager
def notes_in_one_line(command: str) -> Iterator[None]:
    """A context in which an `NlsrWarning` is one line that begins with the command; other warnings stay as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", NlsrWarning)
        otherwise = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, NlsrWarning):
                print(f"{command}: {message}", file=sys.stderr)
            else:
                otherwise(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield
