"""NLSA, Non-Local Sparse Attention: positions are sorted by the bucket of a spherical hash, several rounds over.

Source: Mei et al., CVPR 2021. The published code draws new directions at every call, also in evaluation; here they
belong to a seed and the size of the map unless a generator is given.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nlsr.attention.affinity import Draws, Keep, map_size, to_tokens
from nlsr.attention.chunked import ChunkedAffinity
from nlsr.attention.dense import embedding_width
from nlsr.attention.hashing import HashOperator


class NonLocalSparse(HashOperator):
    """Match positions within chunks of positions sorted by spherical hashing."""

    groups_are = "hash buckets"
    both_signs = True

    def __init__(
        self, channels: int, *, reduction: int = 4, chunk_size: int = 144, rounds: int = 4, seed: int = 0
    ) -> None:
        """
        Args:
            channels: number of channels of the features.
            reduction: the embedding has channels / reduction entries; must divide.
            chunk_size, rounds, seed: as `HashOperator` has them.
        """
        super().__init__(embedding_width(channels, reduction), chunk_size=chunk_size, rounds=rounds, seed=seed)
        self.embed = nn.Conv2d(channels, self.width, 3, padding=1)

    def match(
        self, features: Float[Tensor, "b c h w"], *, draws: Draws | None = None, keep: Keep = "stored"
    ) -> ChunkedAffinity:
        embedding, size = to_tokens(self.embed(features)), map_size(features)
        codes = self._buckets(embedding, draws)
        return ChunkedAffinity(codes, embedding, chunk_size=self.chunk_size, keep=keep, size=size)

    def _draw(self, buckets: int, generator: torch.Generator) -> Float[Tensor, "1 d r k"]:
        return torch.randn((1, self.width, self.rounds, buckets // 2), generator=generator)
