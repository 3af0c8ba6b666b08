"""LevAttention: all queries draw on one small set of keys, chosen by leverage scores from the keys alone.

Source: Kannan et al., "LevAttention: Time, Space, and Streaming Efficient Algorithm for Heavy Attentions", ICLR 2025,
arXiv 2410.05462.
"""

from nlsr.attention.heads import HeadsAffinity
from nlsr.attention.leverage.affinities import KeySetAffinity, PowerAffinity
from nlsr.attention.leverage.distributed import distributed_leverage_scores, distributed_threshold, distributed_top_r
from nlsr.attention.leverage.multi_head import MultiHeadLeverage
from nlsr.attention.leverage.operator import Leverage
from nlsr.attention.leverage.scores import leverage_scores, lewis_weights, lifted_scores, sensitivity_bounds
from nlsr.attention.leverage.selection import KeySet, threshold, top_r
from nlsr.attention.leverage.streaming import KeyStream, two_pass_set

__all__ = [
    "HeadsAffinity",
    "KeySet",
    "KeySetAffinity",
    "KeyStream",
    "Leverage",
    "MultiHeadLeverage",
    "PowerAffinity",
    "distributed_leverage_scores",
    "distributed_threshold",
    "distributed_top_r",
    "leverage_scores",
    "lewis_weights",
    "lifted_scores",
    "sensitivity_bounds",
    "threshold",
    "top_r",
    "two_pass_set",
]
