"""NLSA, Non-Local Sparse Attention: positions are sorted by the bucket of a spherical hash, several rounds over.

Source: Mei et al., CVPR 2021. The published code draws new directions at every call, also in evaluation; here they
belong to a seed and the size of the map unless a generator is given.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nlsr.attention.affinity import Draws, Keep, map_size, to_tokens
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


class NonLocalSparse(EmbeddingOperator):
    """Match positions within chunks of positions sorted by spherical hashing."""

    network_settings = ("reduction", "chunk_size", "rounds", "seed")
    groups_are = "hash buckets"
    directions_held: Tensor

    def __init__(
        self, channels: int, *, reduction: int = 4, chunk_size: int = 144, rounds: int = 4, seed: int = 0
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
        self.embed = nn.Conv2d(channels, width, 3, padding=1)
        self.chunk_size, self.rounds, self.seed = chunk_size, rounds, seed

    def match(
        self, features: Float[Tensor, "b c h w"], *, draws: Draws | None = None, keep: Keep = "stored"
    ) -> ChunkedAffinity:
        embedding = to_tokens(self.embed(features))
        drawn, unused = self._directions(embedding, draws)
        codes = bucket_codes(embedding, drawn, both_signs=True, unused=unused)
        return ChunkedAffinity(codes, embedding, chunk_size=self.chunk_size, keep=keep, size=map_size(features))

    def every_direction(self) -> Tensor:
        return directions_of_all_sizes(self._draw, self.seed)

    def _directions(self, embedding: Tensor, draws: Draws | None) -> tuple[Tensor, Tensor | None]:
        """And which of them are none."""
        length = embedding.shape[1]
        if in_graph():
            return directions_in_graph(self.directions_held, length, self.chunk_size, both_signs=True)
        buckets = num_buckets(length, self.chunk_size)
        return directions(draws, self.seed, lambda generator: self._draw(buckets, generator), embedding), None

    def _draw(self, buckets: int, generator: torch.Generator) -> Float[Tensor, "1 d r k"]:
        """Each direction is that of two buckets."""
        return torch.randn((1, self.embed.out_channels, self.rounds, buckets // 2), generator=generator)

    def floats_per_position(self, channels: int) -> int:
        return chunked_floats(self.embed.out_channels, channels, rounds=self.rounds, chunk_size=self.chunk_size)
