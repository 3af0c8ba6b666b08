"""Who draws on whom, and how much: every operator behind one interface. Knows nothing of images or networks.

`affinity.py` says what a new operator must have; `register` makes it known by a name.
"""

from nlsr.attention.affinity import Affinity, Draws, Keep, Operator, ResidualAttention, SharedAttention, learn
from nlsr.attention.channel import ChannelAttention
from nlsr.attention.chunked import ChunkedAffinity, Chunks
from nlsr.attention.cross_scale import CrossScale, CrossScaleAffinity, CrossScaleAttention, PatchAffinity
from nlsr.attention.dense import DenseAffinity, NonLocal, nonlocal_attention
from nlsr.attention.efficient_contrastive import (
    EfficientContrastive,
    KernelAffinity,
    contrastive_loss,
    sampled_contrastive_loss,
)
from nlsr.attention.focused_window import FocusedAffinity, FocusedWindow
from nlsr.attention.global_learnable import GlobalLearnable, global_learnable_attention
from nlsr.attention.grouped import GroupAffinity
from nlsr.attention.learnable_collaborative import KMeans, LearnableSparsePattern
from nlsr.attention.leverage import Leverage
from nlsr.attention.nearest import Nearest
from nlsr.attention.nonlocal_sparse import NonLocalSparse
from nlsr.attention.overlapping_window import OverlappingWindow, OverlappingWindowAttention
from nlsr.attention.pixel import PixelAttention, PixelAttentionConv
from nlsr.attention.registry import OPERATORS, build_operator, operator_name, register
from nlsr.attention.shared_window import SharedGrid, SharedWindow, SharedWindowAttention
from nlsr.attention.shifted_window import ShiftedWindow
from nlsr.attention.token_aggregation import TokenAggregation, TokenAggregationAttention
from nlsr.attention.token_dictionary import TokenCategories, TokenDictionary

__all__ = [
    "OPERATORS",
    "Affinity",
    "ChannelAttention",
    "ChunkedAffinity",
    "Chunks",
    "CrossScale",
    "CrossScaleAffinity",
    "CrossScaleAttention",
    "DenseAffinity",
    "Draws",
    "EfficientContrastive",
    "FocusedAffinity",
    "FocusedWindow",
    "GlobalLearnable",
    "GroupAffinity",
    "KMeans",
    "Keep",
    "KernelAffinity",
    "LearnableSparsePattern",
    "Leverage",
    "Nearest",
    "NonLocal",
    "NonLocalSparse",
    "Operator",
    "OverlappingWindow",
    "OverlappingWindowAttention",
    "PatchAffinity",
    "PixelAttention",
    "PixelAttentionConv",
    "ResidualAttention",
    "SharedAttention",
    "SharedGrid",
    "SharedWindow",
    "SharedWindowAttention",
    "ShiftedWindow",
    "TokenAggregation",
    "TokenAggregationAttention",
    "TokenCategories",
    "TokenDictionary",
    "build_operator",
    "contrastive_loss",
    "global_learnable_attention",
    "learn",
    "nonlocal_attention",
    "operator_name",
    "register",
    "sampled_contrastive_loss",
]
