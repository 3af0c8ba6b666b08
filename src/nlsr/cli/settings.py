"""What several commands take: key=value settings, values as in TOML, and a device."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nlsr.errors import UsageError
from nlsr.imports import import_modules
from nlsr.settings import parse_value

if TYPE_CHECKING:
    import torch

ModelSettings = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value, for what a published weight file does not determine, like scale=2."),
]


Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        callback=lambda names: import_modules(names or []) or names,
        help="Python module that registers operators or networks of your own; may be repeated.",
    ),
]


def model_settings(words: list[str] | None) -> dict[str, Any]:
    """Raises: UsageError for what is not key=value."""
    settings = {}
    for word in words or []:
        key, equals, text = word.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--set {word}: expected key=value, like scale=2")
        settings[key] = parse_value(text)
    return settings


def device_named(text: str) -> "torch.device":
    """Raises: UsageError for a device that is not there."""
    from nlsr.devices import device_named as named

    return named(text)
