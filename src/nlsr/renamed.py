"""What was otherwise before: the tables by which old recipes, weight files and checkpoints still work."""

from collections.abc import Mapping
from typing import Any

from nlsr.errors import UsageError

RENAMED: dict[str, dict[str, str]] = {
    "LCoANConfig": {"window_size": "chunk_size"},
    "LossesSection": {"contrastive": "attention", "contrastive_after": "attention_after"},
}
"""Class of a config or of a section of a recipe -> old name of a field -> its name today."""

FORMER_PRESETS: dict[str, dict[str, Any]] = {"lcoan-light": {"num_groups": 4, "num_blocks": 2, "balanced": False}}
"""Preset -> fields of its config that were others when checkpoints did not name them."""


def translated(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a config or section under the names of today.

    Raises: UsageError if a value is given under its old and under its new name.
    """
    names = RENAMED.get(kind, {})
    for old, new in names.items():
        if old in values and new in values:
            raise UsageError(f"{old} is called {new} today; expected one of them, got both")
    return {names.get(name, name): value for name, value in values.items()}
