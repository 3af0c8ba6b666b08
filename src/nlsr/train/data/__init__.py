"""Training data: images decoded once into a memory-mapped cache, and the batches that are cut from them."""

from nlsr.train.data.augment import flip_and_turn
from nlsr.train.data.batches import Batches
from nlsr.train.data.degradation import DegradationSection, degrade
from nlsr.train.data.pairs import Pairs
from nlsr.train.data.prepare import Report, prepare

__all__ = ["Batches", "DegradationSection", "Pairs", "Report", "degrade", "flip_and_turn", "prepare"]
