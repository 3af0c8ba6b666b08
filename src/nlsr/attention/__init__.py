"""Who draws on whom, and how much: every operator behind one interface. Knows nothing of images or networks."""

from nlsr.attention.affinity import Affinity, Draws, Keep, Operator, SharedAttention
from nlsr.attention.chunked import ChunkedAffinity, Chunks
from nlsr.attention.dense import DenseAffinity, NonLocal, NonLocalAttention
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
    "GlobalLearnable",
    "KMeans",
    "Keep",
    "LearnableSparsePattern",
    "NonLocal",
    "NonLocalAttention",
    "NonLocalSparse",
    "Operator",
    "PixelAttention",
    "PixelAttentionConv",
    "SharedAttention",
    "global_learnable_attention",
]
