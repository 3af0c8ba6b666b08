"""Configs of networks: values that a file, a recipe or a person gave are checked against the fields of a dataclass."""

import dataclasses
from typing import Any

from nlsr.attention import Operator
from nlsr.errors import ShapeError, UsageError
from nlsr.renamed import translated


def configure(kind: type[Any], values: dict[str, Any]) -> Any:
    """A config of these values, under names of today or of before.

    Args:
        kind: the dataclass of the config.
    Raises: ShapeError that names the fields that are unknown, missing or of another type, and counts below one.
    """
    from pydantic import TypeAdapter, ValidationError

    values = translated(kind.__name__, values)
    fields = [field.name for field in dataclasses.fields(kind)]
    problems = [f"{name}: unknown; known are {', '.join(fields)}" for name in values if name not in fields]
    try:
        config = TypeAdapter(kind).validate_python({name: values[name] for name in values if name in fields})
    except ValidationError as error:
        for each in error.errors():
            message = each["msg"].replace("Input should be", "expected", 1)
            problems.append(f"{'.'.join(map(str, each['loc']))}: {message}, got {each['input']!r}")
    except UsageError as error:  # an operator that is not known
        problems.append(str(error))
    else:
        for name, value in vars(config).items():
            if type(value) is int and value < 1:
                problems.append(f"{name}: expected a whole number above zero, got {value}")
    if problems:
        raise ShapeError("; ".join(problems))
    return config


def settings_for(kind: type[Operator], config: Any, *, seed: int = 0) -> dict[str, Any]:
    """What an operator wants of a config: see `Operator.network_settings`.

    Args:
        seed: the number of the operator in the network.
    """
    known = vars(config) | {"seed": seed}
    return {name: known[name] for name in kind.network_settings if name in known}


def check_config(config: Any) -> None:
    """Raises: ShapeError, as `configure` does, for a config whose values are not what its fields say."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    checked = configure(type(config), values)
    wrong = [
        f"{name}: expected {getattr(checked, name)!r}, got {value!r}"
        for name, value in values.items()
        if getattr(checked, name) != value
    ]
    if wrong:
        raise ShapeError("; ".join(wrong))
