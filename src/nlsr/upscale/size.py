"""What size a picture is wanted in, and which passes through networks reach it. Knows nothing of pixels."""

import math
import re
from dataclasses import dataclass
from itertools import combinations_with_replacement

from nlsr.errors import UsageError

LARGEST_SCALE = 16
"""Beyond it nothing that a network adds has to do with the picture any more."""


@dataclass(frozen=True)
class Size:
    """How large results are: a scale, a width, a height, a box, or as the model makes them if nothing is given.

    Args:
        scale: any positive number; sides are rounded to nearest, halves up.
        width, height: one side of the result, in pixels; the other side follows, because the aspect is kept.
        fit: (width, height) of a box, or "3840x2160": the largest size inside it that keeps the aspect.
    Raises: UsageError, in one line, for two of them, and for what is not positive or no number.
    """

    scale: float | None = None
    width: int | None = None
    height: int | None = None
    fit: tuple[int, int] | str | None = None

    def __post_init__(self) -> None:
        given = [f"`{name}`" for name, value in vars(self).items() if value is not None]
        if len(given) > 1:
            raise UsageError(f"expected one of `scale`, `width`, `height` and `fit`, got {' and '.join(given)}")
        if self.scale is not None and not (_is_number(self.scale) and 0 < self.scale <= LARGEST_SCALE):
            raise UsageError(f"`scale={self.scale}`: expected a number above 0 and up to {LARGEST_SCALE}")
        for name, side in (("width", self.width), ("height", self.height)):
            if side is not None and not _is_side(side):
                raise UsageError(f"`{name}={side}`: expected a positive whole number of pixels")
        if self.fit is not None:
            object.__setattr__(self, "fit", _box(self.fit))

    def of(self, height: int, width: int, *, otherwise: int) -> tuple[float, int, int]:
        """The scale that a picture of this size needs, and height and width of its result.

        Args:
            otherwise: the scale if none is asked for.
        Raises: UsageError if it would be enlarged by more than `LARGEST_SCALE`.
        """
        if self.fit is not None:
            assert not isinstance(self.fit, str)
            scale = min(self.fit[0] / width, self.fit[1] / height)
        elif self.width is not None:
            scale = self.width / width
        elif self.height is not None:
            scale = self.height / height
        else:
            scale = self.scale or float(otherwise)
        if scale > LARGEST_SCALE:
            raise UsageError(
                f"a {width}x{height} picture would be enlarged {scale:.4g} times, the limit is {LARGEST_SCALE}; "
                "ask for a smaller size"
            )
        new_height, new_width = (max(1, math.floor(round(side * scale, 6) + 0.5)) for side in (height, width))
        return scale, self.height or new_height, self.width or new_width


def passes(scale: float, available: tuple[int, ...]) -> tuple[int, ...]:
    """The scales of the networks to apply in turn: as few as reach `scale`, with the least product.

    Smaller ones come first, as that costs least: 8 is 2 then 4. A scale up to 1 needs none.
    """
    count = 0
    while True:
        chains = combinations_with_replacement(sorted(available), count)
        enough = [chain for chain in chains if math.prod(chain) >= scale - 1e-9]
        if enough:
            return min(enough, key=math.prod)
        count += 1


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _box(fit: tuple[int, int] | str) -> tuple[int, int]:
    sides: tuple[object, ...] = ()
    if isinstance(fit, str):
        match = re.fullmatch(r"\s*(\d{1,9})\s*[xX×]\s*(\d{1,9})\s*", fit)
        sides = tuple(int(side) for side in match.groups()) if match else ()
    elif isinstance(fit, tuple | list):
        sides = tuple(fit)
    if len(sides) != 2 or not all(_is_side(side) for side in sides):
        raise UsageError(f"`fit={fit}`: expected a box like 3840x2160")
    return sides[0], sides[1]  # type: ignore[return-value]
