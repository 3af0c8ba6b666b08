"""From a picture to a larger one."""

from nlsr.upscale.compare import TilingDifference, compare_tiling
from nlsr.upscale.plan import Plan
from nlsr.upscale.size import Size
from nlsr.upscale.upscaler import DEFAULT_MODEL, Outcome, Result, Upscaler

__all__ = ["DEFAULT_MODEL", "Outcome", "Plan", "Result", "Size", "TilingDifference", "Upscaler", "compare_tiling"]
