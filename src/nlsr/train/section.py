"""What every section of a recipe is: frozen, and without unknown keys."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from nlsr.errors import UsageError
from nlsr.renamed import translated


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _under_names_of_today(cls, values: Any) -> Any:
        return named_today(cls.__name__, values)


def named_today(kind: str, values: Any) -> Any:
    """Values of a section under the names of today. Raises: ValueError if one is given under both."""
    try:
        return translated(kind, values) if isinstance(values, Mapping) else values
    except UsageError as error:
        raise ValueError(str(error)) from error


def _in_order(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"expected the smaller bound first, got {list(bounds)}")
    return bounds


Share = Annotated[float, Field(ge=0, le=1)]
"""A probability."""

Positive = Annotated[float, Field(gt=0)]

Range = Annotated[tuple[Positive, Positive], AfterValidator(_in_order)]
"""The smallest and the largest value of a draw, both positive."""
