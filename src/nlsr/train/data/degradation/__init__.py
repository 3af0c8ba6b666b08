"""Low-res images as photographs are: blurred, resized, noisy and compressed, in a random order and strength."""

from nlsr.train.data.degradation.chain import degrade
from nlsr.train.data.degradation.settings import DegradationSection

__all__ = ["DegradationSection", "degrade"]
