"""Every error that nlsr raises on purpose. A message says what was expected, what came, and what to do.

What is a parameter of a function stands in backticks: `max_pixels`, or `tile=256`. A command calls it as its option.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

_PARAMETER = re.compile(r"`([a-z_]+)(?:=([^`]*))?`")
_in_command = False


def as_options(text: str) -> str:
    """A message with the options of a command in place of parameters: --max-pixels, --tile 256."""
    return _PARAMETER.sub(lambda found: f"--{found[1].replace('_', '-')} {found[2] or ''}".rstrip(), text)


@contextmanager
def in_command() -> Iterator[None]:
    """The context in which every message speaks of options, as a person at the command line reads it."""
    global _in_command  # noqa: PLW0603 - a process runs one command
    before, _in_command = _in_command, True
    try:
        yield
    finally:
        _in_command = before


class _Message(Exception):
    def __str__(self) -> str:
        message = super().__str__()
        return as_options(message) if _in_command else message


class NlsrError(_Message):
    """Base of all errors that a user can cause; a command prints it as one line."""


class ShapeError(NlsrError, ValueError):
    """A tensor, an image or a network size does not fit."""


class ImageError(NlsrError):
    """An image file cannot be read or written."""


class NotFiniteError(NlsrError):
    """NaN or infinity where numbers are computed with."""


class CheckpointError(NlsrError):
    """A weight file does not hold what was asked for."""


class ExportError(NlsrError):
    """A graph that was written does not compute what its network does, or its format lacks an operation."""


class RecipeError(NlsrError):
    """A training recipe is wrong, or what it names is missing."""


class TrainingError(NlsrError):
    """A training cannot continue: its numbers are not finite any more, or what it makes cannot be written."""


class ProcessLostError(TrainingError):
    """Another process that shared a training is gone."""


class UsageError(NlsrError):
    """A command was asked for something it does not do; it exits with 2."""


class StorageError(ImageError, UsageError):
    """An object storage does not answer, does not take the credentials, or has no such bucket: nothing can be had."""


class TargetError(ImageError, UsageError):
    """A result cannot be written where it was asked for."""


class ModelNotFoundError(CheckpointError, UsageError):
    """What was named as a model is neither the name of weights nor a weight file."""


class Interrupted(NlsrError):
    """The user stopped a command; the message says what is done and how to continue.

    The command exits with 128 and the number of the signal: 130 for ctrl-C.
    """


class NlsrWarning(_Message, UserWarning):
    """A choice that was made for the user, or something that they should know; a command prints it as one line."""
