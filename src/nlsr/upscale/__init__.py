"""From a picture to a larger one."""

from nlsr.upscale.upscaler import DEFAULT_MODEL, Result, Upscaler

__all__ = ["DEFAULT_MODEL", "Result", "Upscaler"]
