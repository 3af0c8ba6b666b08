"""Settings on the command line: key=value, values as in TOML."""

from typing import Annotated, Any

import typer

from nlsr.errors import UsageError
from nlsr.settings import parse_value

ModelSettings = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value, for what a published weight file does not determine, like scale=2."),
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
