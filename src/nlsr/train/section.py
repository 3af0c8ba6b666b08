"""What every section of a recipe is: frozen, and without unknown keys."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def _in_order(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"expected the smaller bound first, got {list(bounds)}")
    return bounds


Share = Annotated[float, Field(ge=0, le=1)]
"""A probability."""

Positive = Annotated[float, Field(gt=0)]

Range = Annotated[tuple[Positive, Positive], AfterValidator(_in_order)]
"""The smallest and the largest value of a draw, both positive."""
