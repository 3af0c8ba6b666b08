"""GLA, Global Learnable Attention: super-bit hashing sorts the positions, and a learned score adds to similarity.

Source: Su et al., TPAMI 2022, arXiv 2212.01057. The learned score is a function of the key and of the query's slot in
its chunk, as published. The perceptron behind it acts on each position alone, so it runs once per position instead of
once per neighbourhood: equal values for a third of the arithmetic.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nlsr.attention.affinity import Draws, Keep, SharedAttention, map_size, to_tokens
from nlsr.attention.chunked import ChunkedAffinity
from nlsr.attention.dense import embedding_width
from nlsr.attention.hashing import HashOperator


class GlobalLearnable(HashOperator):
    """Match positions within chunks of positions sorted by super-bit hashing, with a learned score."""

    groups_are = "super-bit buckets"
    both_signs = False

    def __init__(
        self, channels: int, *, reduction: int = 4, chunk_size: int = 128, rounds: int = 3, seed: int = 0
    ) -> None:
        """
        Args:
            channels: number of channels of the features.
            reduction: the embedding has channels / reduction entries; must divide.
            chunk_size, rounds, seed: as `HashOperator` has them.
        """
        super().__init__(embedding_width(channels, reduction), chunk_size=chunk_size, rounds=rounds, seed=seed)
        self.embed = nn.Sequential(nn.Conv2d(channels, self.width, 3, padding=1), nn.ReLU())
        self.embed_score = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())
        self.score = nn.Sequential(nn.Linear(channels, chunk_size), nn.ReLU(), nn.Linear(chunk_size, chunk_size))

    def match(
        self, features: Float[Tensor, "b c h w"], *, draws: Draws | None = None, keep: Keep = "stored"
    ) -> ChunkedAffinity:
        embedding = to_tokens(self.embed(features))
        return ChunkedAffinity(
            self._buckets(embedding, draws),
            embedding,
            chunk_size=self.chunk_size,
            slot_scores=self.score(to_tokens(self.embed_score(features))),
            keep=keep,
            size=map_size(features),
        )

    def _draw(self, buckets: int, generator: torch.Generator) -> Float[Tensor, "1 d r k"]:
        return super_bits(self.width, self.rounds, buckets, generator)

    def floats_per_position(self, channels: int) -> int:
        return super().floats_per_position(channels) + (1 + self.rounds) * self.chunk_size


def global_learnable_attention(
    channels: int, operator: GlobalLearnable | None = None, *, residual_scale: float = 1.0
) -> SharedAttention:
    """A residual block whose values are a 3x3 convolution and ReLU, as published."""
    return SharedAttention(channels, operator, values=global_learnable_values(channels), residual_scale=residual_scale)


def global_learnable_values(channels: int) -> nn.Sequential:
    """What makes the values of such a block."""
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())


def super_bits(width: int, rounds: int, buckets: int, generator: torch.Generator) -> Float[Tensor, "1 d r k"]:
    """Haar-random semi-orthogonal directions, one matrix per round.

    Beyond `width` directions not they but the coordinates are orthogonal, as published.
    """
    matrices = [nn.init.orthogonal_(torch.empty(width, buckets), generator=generator) for _ in range(rounds)]
    return torch.stack(matrices, dim=1)[None]
