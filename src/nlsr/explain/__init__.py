"""Where a network draws from for one pixel: affinity, pattern and local attribution map."""

from nlsr.explain.attribution import Attribution, attribute, diffusion_index, gini
from nlsr.explain.explanation import Explanation, explain
from nlsr.explain.origins import Sources, sources
from nlsr.explain.region import Region

__all__ = [
    "Attribution",
    "Explanation",
    "Region",
    "Sources",
    "attribute",
    "diffusion_index",
    "explain",
    "gini",
    "sources",
]
