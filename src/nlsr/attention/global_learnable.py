"""GLA, Global Learnable Attention: super-bit hashing sorts the positions, and a learned score adds to similarity.

Source: Su et al., TPAMI 2022, arXiv 2212.01057. The learned score is a function of the key and of the query's slot in
its chunk, as published. The perceptron behind it acts on each position alone, so it runs once per position instead of
once per neighbourhood: equal values for a third of the arithmetic.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nlsr.attention.affinity import Draws, Keep, SharedAttention, map_size, to_tokens
from nlsr.attention.chunked import ChunkedAffinity, chunked_floats
from nlsr.attention.dense import embedding_width
from nlsr.attention.embedding import EmbeddingOperator
from nlsr.attention.hashing import (
    bucket_codes,
    directions,
    directions_in_graph,
    directions_of_all_sizes,
    num_buckets,
)
from nlsr.attention.streamed import in_graph


class GlobalLearnable(EmbeddingOperator):
    """Match positions within chunks of positions sorted by super-bit hashing, with a learned score."""

    network_settings = ("reduction", "chunk_size", "rounds", "seed")
    groups_are = "super-bit buckets"
    directions_held: Tensor

    def __init__(
        self, channels: int, *, reduction: int = 4, chunk_size: int = 128, rounds: int = 3, seed: int = 0
    ) -> None:
        """
        Args:
            channels: number of channels of the features.
            reduction: the embedding has channels / reduction entries; must divide.
            chunk_size: sorted positions per chunk; each attends to three chunks.
            rounds: independent hashes.
            seed: seed of the directions; different for each operator of a network.
        """
        super().__init__()
        width = embedding_width(channels, reduction)
        self.embed = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU())
        self.embed_score = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())
        self.score = nn.Sequential(nn.Linear(channels, chunk_size), nn.ReLU(), nn.Linear(chunk_size, chunk_size))
        self.width, self.chunk_size, self.rounds, self.seed = width, chunk_size, rounds, seed

    def match(
        self, features: Float[Tensor, "b c h w"], *, draws: Draws | None = None, keep: Keep = "stored"
    ) -> ChunkedAffinity:
        embedding = to_tokens(self.embed(features))
        drawn, unused = self._directions(embedding, draws)
        return ChunkedAffinity(
            bucket_codes(embedding, drawn, both_signs=False, unused=unused),
            embedding,
            chunk_size=self.chunk_size,
            slot_scores=self.score(to_tokens(self.embed_score(features))),
            keep=keep,
            size=map_size(features),
        )

    def every_direction(self) -> Tensor:
        return directions_of_all_sizes(self._draw, self.seed)

    def _directions(self, embedding: Tensor, draws: Draws | None) -> tuple[Tensor, Tensor | None]:
        """And which of them are none."""
        length = embedding.shape[1]
        if in_graph():
            return directions_in_graph(self.directions_held, length, self.chunk_size, both_signs=False)
        buckets = num_buckets(length, self.chunk_size)
        return directions(draws, self.seed, lambda generator: self._draw(buckets, generator), embedding), None

    def _draw(self, buckets: int, generator: torch.Generator) -> Float[Tensor, "1 d r k"]:
        return super_bits(self.width, self.rounds, buckets, generator)

    def floats_per_position(self, channels: int) -> int:
        scores = (1 + self.rounds) * self.chunk_size
        return chunked_floats(self.width, channels, rounds=self.rounds, chunk_size=self.chunk_size) + scores


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
