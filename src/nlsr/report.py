"""How far a long computation is, for whoever shows it."""

from collections.abc import Callable

Report = Callable[[int, int], object]
"""Called with how much is done and how much there is: images, tiles, steps or bytes."""
