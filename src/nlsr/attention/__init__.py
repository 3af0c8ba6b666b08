"""Who draws on whom, and how much: every operator behind one interface. Knows nothing of images or networks."""

from nlsr.attention.affinity import Affinity, Keep, Operator, SharedAttention
from nlsr.attention.chunked import ChunkedAffinity, Chunks
from nlsr.attention.dense import DenseAffinity, NonLocal, NonLocalAttention
from nlsr.attention.learnable_collaborative import KMeans, LearnableSparsePattern
from nlsr.attention.pixel import PixelAttention, PixelAttentionConv

__all__ = [
    "Affinity",
    "ChunkedAffinity",
    "Chunks",
    "DenseAffinity",
    "KMeans",
    "Keep",
    "LearnableSparsePattern",
    "NonLocal",
    "NonLocalAttention",
    "Operator",
    "PixelAttention",
    "PixelAttentionConv",
    "SharedAttention",
]
