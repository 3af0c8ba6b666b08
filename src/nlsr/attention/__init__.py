"""Who draws on whom, and how much: every operator behind one interface. Knows nothing of images or networks."""

from nlsr.attention.affinity import Affinity, Draws, Keep, Operator, ResidualAttention, SharedAttention
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
from nlsr.attention.global_learnable import GlobalLearnable, global_learnable_attention
from nlsr.attention.learnable_collaborative import KMeans, LearnableSparsePattern
from nlsr.attention.leverage import Leverage
from nlsr.attention.nonlocal_sparse import NonLocalSparse
from nlsr.attention.pixel import PixelAttention, PixelAttentionConv
from nlsr.attention.shared_window import GroupedAffinity, SharedWindow, SharedWindowAttention

__all__ = [
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
    "GlobalLearnable",
    "GroupedAffinity",
    "KMeans",
    "Keep",
    "KernelAffinity",
    "LearnableSparsePattern",
    "Leverage",
    "NonLocal",
    "NonLocalSparse",
    "Operator",
    "PatchAffinity",
    "PixelAttention",
    "PixelAttentionConv",
    "ResidualAttention",
    "SharedAttention",
    "SharedWindow",
    "SharedWindowAttention",
    "contrastive_loss",
    "global_learnable_attention",
    "nonlocal_attention",
    "sampled_contrastive_loss",
]
