"""Values that people type: as in TOML, where a bare word is a string."""

import tomllib
from typing import Any


def parse_value(text: str) -> Any:
    """5, 0.1, true, [1, 2], "text" or text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
