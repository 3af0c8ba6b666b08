"""Where a network draws from for one pixel: affinity, pattern and local attribution map."""

from nlsr.explain.attribution import Attribution, attribute, diffusion_index, gini
from nlsr.explain.explanation import Explanation, explain, matched_region
from nlsr.explain.origins import Matched, Sources, sources
from nlsr.explain.region import Region

__all__ = [
    "Attribution",
    "Explanation",
    "Matched",
    "Region",
    "Sources",
    "attribute",
    "diffusion_index",
    "explain",
    "gini",
    "matched_region",
    "sources",
]
