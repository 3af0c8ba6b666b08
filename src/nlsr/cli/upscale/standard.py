"""Standard input and output as the picture and its result, where they are called `-`.

Both are files in a folder of their own while the command runs: a decoder must be able to go back in a file, and a
result that failed half-way is not sent to anyone.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nlsr.cli.streams import Words
from nlsr.errors import ImageError, NlsrError, UsageError

if TYPE_CHECKING:
    from nlsr.upscale.batch import Staging

DASH = "-"


@dataclass(frozen=True)
class Standard:
    """What the command reads and writes, with files in place of `-` and of addresses.

    Args:
        result: the file that will be sent to standard output.
        staging: where files of addresses lie while they are in hand.
    """

    inputs: list[str]
    output: str | None
    folder: Path | None = None
    result: Path | None = None
    staging: "Staging | None" = None

    def said(self, text: str) -> str:
        """A message in which the files are called what they stand for."""
        if self.staging is not None:
            text = self.staging.said(text)
        return text if self.folder is None else text.replace(f"{self.folder}{os.sep}", "")

    def send(self) -> None:
        """The result to standard output. Raises: ImageError if whoever reads it does not take it."""
        if self.result is None:
            return
        try:
            with self.result.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except OSError as error:
            if isinstance(sys.stdout, Words):
                sys.stdout.lose(error)
            raise ImageError(f"standard output: cannot be written ({error.strerror})") from error


@contextlib.contextmanager
def standard_streams(inputs: list[str], output: str | None, *, as_json: bool) -> Iterator[Standard]:
    """The files for what is called `-`, which are gone afterwards. A picture from standard input goes to standard
    output unless another place is given.

    Raises: UsageError for standard streams that cannot hold a picture.
    """
    reads = DASH in inputs
    if reads and output is None:
        output = DASH
    if not reads and output != DASH:
        yield Standard(inputs, output)
        return
    if reads and len(inputs) > 1:
        raise UsageError(f"-: expected standard input alone, got {len(inputs)} inputs")
    if output == DASH:
        _check_output(as_json=as_json)
    with tempfile.TemporaryDirectory(prefix="nlsr-") as name:
        folder = Path(name)
        source, result = folder / "standard input", folder / "standard output"
        if reads:
            _receive(source)
        standard = Standard(
            [str(source)] if reads else inputs,
            str(result) if output == DASH else output,
            folder,
            result if output == DASH else None,
        )
        try:
            yield standard
        except NlsrError as error:
            raise type(error)(standard.said(str(error))) from error


@contextlib.contextmanager
def with_addresses(standard: Standard) -> Iterator[Standard]:
    """The same with places of this machine for addresses of object storage; they are gone afterwards."""
    from nlsr.storage import is_address, is_folder

    inputs, output = standard.inputs, standard.output
    if not any(is_address(word) for word in (*inputs, output or "")):
        yield standard
        return
    from nlsr.upscale.batch import Staging

    with tempfile.TemporaryDirectory(prefix="nlsr-") as name:
        staging = Staging(Path(name))
        if output is not None and is_address(output):
            in_folder = output.endswith("/") or is_folder(output)
            output = f"{staging.place(output)}{os.sep if in_folder else ''}"
        staged = replace(standard, output=output, staging=staging)
        try:
            yield staged
        except NlsrError as error:
            raise type(error)(staged.said(str(error))) from error


def _check_output(*, as_json: bool) -> None:
    if as_json:
        raise UsageError("-o -: standard output is for the picture; leave out --json")
    if sys.stdout.isatty():
        raise UsageError("-o -: standard output is a terminal; send the picture to a file with >, or name one with -o")


def _receive(path: Path) -> None:
    if sys.stdin is None:
        raise UsageError("-: standard input is closed; expected a picture, as in: nlsr upscale - < photo.jpg")
    if sys.stdin.isatty():
        raise UsageError("-: standard input is a terminal; expected a picture, as in: nlsr upscale - < photo.jpg")
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
    except OSError as error:
        raise ImageError(f"standard input: cannot be kept in {path.parent} ({error.strerror})") from error
