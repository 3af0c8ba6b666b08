"""From a picture to a larger one."""

from nlsr.upscale.compare import TilingDifference, compare_tiling
from nlsr.upscale.plan import Plan
from nlsr.upscale.size import Size
from nlsr.upscale.upscaler import Outcome, Result, Upscaler

__all__ = ["Outcome", "Plan", "Result", "Size", "TilingDifference", "Upscaler", "compare_tiling"]
