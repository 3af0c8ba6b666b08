"""Who draws on whom, and how much: every operator behind one interface. Knows nothing of images or networks."""

from nlsr.attention.affinity import Affinity, Draws, Keep, Operator, SharedAttention
from nlsr.attention.chunked import ChunkedAffinity, Chunks
from nlsr.attention.dense import DenseAffinity, NonLocal, NonLocalAttention
from nlsr.attention.efficient_contrastive import (
    EfficientContrastive,
    KernelAffinity,
    contrastive_loss,
    sampled_contrastive_loss,
)
from nlsr.attention.global_learnable import GlobalLearnable, global_learnable_attention
from nlsr.attention.learnable_collaborative import KMeans, LearnableSparsePattern
from nlsr.attention.nonlocal_sparse import NonLocalSparse
from nlsr.attention.pixel import PixelAttention, PixelAttentionConv

__all__ = [
    "Affinity",
    "ChunkedAffinity",
    "Chunks",
    "DenseAffinity",
    "Draws",
    "EfficientContrastive",
    "GlobalLearnable",
    "KMeans",
    "Keep",
    "KernelAffinity",
    "LearnableSparsePattern",
    "NonLocal",
    "NonLocalAttention",
    "NonLocalSparse",
    "Operator",
    "PixelAttention",
    "PixelAttentionConv",
    "SharedAttention",
    "contrastive_loss",
    "global_learnable_attention",
    "sampled_contrastive_loss",
]
