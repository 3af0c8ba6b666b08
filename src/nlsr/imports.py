"""Modules that a person names, so that what they register is known."""

import os
import sys
from collections.abc import Iterable
from importlib import import_module

from nlsr.errors import UsageError


def import_modules(names: Iterable[str]) -> None:
    """Import modules by name, looking into the current folder first, as `python -m` does.

    Raises: UsageError if one is not there, or fails.
    """
    for name in names:
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            import_module(name)
        except Exception as error:  # another's code may fail in any way
            raise UsageError(f"module '{name}' cannot be imported: {type(error).__name__}: {error}") from error
