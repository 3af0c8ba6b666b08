"""Training data: images decoded once into a memory-mapped cache, and the batches that are cut from them."""

from nlsr.train.data.augment import AugmentationSection, flip_and_turn
from nlsr.train.data.batches import Batches, Places
from nlsr.train.data.cache import default_folder
from nlsr.train.data.degradation import DegradationSection, degrade
from nlsr.train.data.pairs import Entry, Facts, Pairs
from nlsr.train.data.preparation import prepare
from nlsr.train.data.resident import Resident, fits
from nlsr.train.data.summaries import summary, table
from nlsr.train.data.taught import teach

__all__ = [
    "AugmentationSection",
    "Batches",
    "DegradationSection",
    "Entry",
    "Facts",
    "Pairs",
    "Places",
    "Resident",
    "default_folder",
    "degrade",
    "fits",
    "flip_and_turn",
    "prepare",
    "summary",
    "table",
    "teach",
]
