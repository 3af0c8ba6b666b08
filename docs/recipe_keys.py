"""Writes the table of a recipe's keys into docs/training.md, from the models that read recipes.

python docs/recipe_keys.py
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from nlsr.train.recipe import NetworkSection, Recipe

BEGIN, END = "<!-- keys: made by docs/recipe_keys.py -->\n", "<!-- end of keys -->\n"


def table() -> str:
    lines = ["| key | default | |", "|---|---|---|"]
    for name, default, text in rows(Recipe):
        lines.append(f"| `{name}` | {default} | {text} |")
    return "\n".join(lines) + "\n"


def rows(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """The name, default and description of each key, sections after plain keys of the same model."""
    inner = []
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is None:
            yield (
                prefix + name,
                shown(field.get_default(call_default_factory=True)),
                " ".join((field.description or "").split()),
            )
        else:
            inner.append((section, f"{prefix}{name}."))
    if model is NetworkSection:
        yield f"{prefix}*", "the preset's", "Any field of the network's config."
    for section, begin in inner:
        yield from rows(section, begin)


def section_of(annotation: Any) -> type[BaseModel] | None:
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def shown(default: Any) -> str:
    if default is PydanticUndefined:
        return "required"
    if default is None or default == ():
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    return str(list(default) if isinstance(default, tuple) else default)


def main() -> None:
    path = Path(__file__).with_name("training.md")
    text = path.read_text()
    path.write_text(text[: text.index(BEGIN)] + BEGIN + table() + text[text.index(END) :])


if __name__ == "__main__":
    main()
