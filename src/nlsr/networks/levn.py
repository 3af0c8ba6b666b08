"""LevN: an LCoAN whose groups draw on one small set of keys, chosen by leverage scores instead of by clusters.

Ours, after LevAttention (arXiv 2410.05462), which was made for classification. Position by position every pixel draws
on the same few: cheaper than windows of a sorted map, and blind to what the set leaves out.
"""

from dataclasses import replace

from nlsr.networks.lcoan import LCoANConfig, lcoan_light


def levn(scale: int) -> LCoANConfig:
    """`lcoan_light` in four groups of two blocks, with a set of 128 keys: one matching and three reusing attentions."""
    return replace(lcoan_light(scale), num_groups=4, num_blocks=2, balanced=False, operator="leverage")
