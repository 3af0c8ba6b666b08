"""ENLCA, Efficient Non-Local Contrastive Attention: exp(query . key) as a product of positive random features.

The sum over all keys is then one small matrix, so that every position draws on all others at linear cost. A
contrastive loss in training separates related from unrelated positions.

Source: Xia et al., AAAI 2022, arXiv 2201.03794. With the published amplification 6 and 128 features this is no
approximation of softmax attention but a fixed attention that the network is trained around: the directions belong to
the weights.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.attention.affinity import Affinity, Draws, Keep, Operator, map_size, matching_dtype, to_tokens
from nlsr.attention.dense import DenseAffinity, embedding_width
from nlsr.attention.streamed import recomputed

NORM_FLOOR = 5e-5
"""Published lower bound of an embedding's norm when it is normalised."""
FEATURE_FLOOR = 1e-4
"""Published constant added to each feature; part of the function, not a guard."""
BLOCK = 16_384
"""Positions whose features exist at a time when they are recomputed."""
SCORE_BLOCK_BYTES = 16 * 2**20
"""Memory of one block of scores of the contrastive loss."""
NUM_POSITIVES, FIRST_NEGATIVE, LAST_NEGATIVE = 15, 50, 65
"""Ranks of the code: the mean of the 15 best scores against that of ranks 51 to 65."""


class KernelAffinity(Affinity):
    """phi(query) . phi(key), normalised by its sum over all keys; phi are positive random features.

    *stored* keeps the features of all positions, *recomputed* makes them a block of positions at a time.
    """

    def __init__(
        self,
        query: Float[Tensor, "b q d"],
        key: Float[Tensor, "b k d"],
        projection: Float[Tensor, "m d"],
        *,
        keep: Keep = "stored",
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(query.shape[1], key.shape[1], size=size)
        dtype = matching_dtype(query.dtype)
        self.query, self.key, self.projection = query.to(dtype), key.to(dtype), projection.to(dtype)
        self._stored = (self._features(self.query), self._features(self.key)) if keep == "stored" else None

    def aggregate(self, values: Float[Tensor, "b keys c"]) -> Float[Tensor, "b queries c"]:
        ones = values.new_ones(*values.shape[:2], 1)
        summed = self._sum_over_keys(torch.cat((values, ones), dim=2).to(self.key.dtype))
        drawn = self._apply(summed)
        return (drawn[..., :-1] / drawn[..., -1:]).to(values.dtype)

    def rows(self, queries: Int[Tensor, " q"]) -> Float[Tensor, "b q keys"]:
        with torch.autocast(self.query.device.type, enabled=False):
            products = self._features(self.query[:, queries.to(self.query.device)]) @ self._features(self.key).mT
        return products / products.sum(-1, keepdim=True)

    def _features(self, embedding: Tensor) -> Tensor:
        return random_features(embedding, self.projection)

    def _sum_over_keys(self, values: Tensor) -> Tensor:
        """(b, m, c): the sum over keys of phi(key) value."""
        if self._stored is not None:
            return _sum_of_products(self._stored[1], values)
        total = values.new_zeros(values.shape[0], len(self.projection), values.shape[2])
        for key, part in zip(self.key.split(BLOCK, dim=1), values.split(BLOCK, dim=1), strict=True):
            total = total + recomputed(lambda k, v: _sum_of_products(self._features(k), v), key, part)
        return total

    def _apply(self, summed: Tensor) -> Tensor:
        if self._stored is not None:
            return _product(self._stored[0], summed)
        blocks = self.query.split(BLOCK, dim=1)
        return torch.cat(
            [recomputed(lambda q, s: _product(self._features(q), s), query, summed) for query in blocks], 1
        )


class EfficientContrastive(Operator):
    """Match all positions with all others by random features of exp."""

    network_settings = ("reduction", "num_features", "amplification", "seed")

    projection: Tensor  # (features, width): the directions, saved with the weights and never trained

    def __init__(
        self, channels: int, *, reduction: int = 4, num_features: int = 128, amplification: float = 6.0, seed: int = 0
    ) -> None:
        """
        Args:
            channels: number of channels of the features.
            reduction: queries and keys have channels / reduction entries; must divide.
            num_features: random features; more are closer to softmax.
            amplification: scores are this times a cosine.
            seed: seed of the first directions.
        """
        super().__init__()
        width = embedding_width(channels, reduction)
        self.query = nn.Conv2d(channels, width, 1)
        self.key = nn.Conv2d(channels, width, 1)
        self.amplification = amplification
        drawn = orthogonal_directions(num_features, width, torch.Generator().manual_seed(seed))
        self.register_buffer("projection", drawn)

    def match(
        self, features: Float[Tensor, "b c h w"], *, draws: Draws | None = None, keep: Keep = "stored"
    ) -> KernelAffinity:
        """`draws` replaces the directions that belong to the weights, which is rarely wanted: see `redraw`."""
        projection = self.projection
        if isinstance(draws, Tensor):
            projection = draws.to(projection.device)
        return KernelAffinity(*self._embed(features), projection, keep=keep, size=map_size(features))

    def floats_per_position(self, channels: int) -> int:
        return 2 * (len(self.projection) + self.query.out_channels)

    def loss(self, affinity: KernelAffinity) -> Float[Tensor, ""]:
        return contrastive_loss(affinity.query, affinity.key)

    def exact(self, features: Float[Tensor, "b c h w"]) -> DenseAffinity:
        return DenseAffinity(*self._embed(features), size=map_size(features))

    def redraw(self, generator: torch.Generator) -> None:
        """New directions from a CPU generator; the published training draws them after every 640 steps."""
        count, width = self.projection.shape
        self.projection.copy_(orthogonal_directions(count, width, generator))

    def _embed(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys."""
        return self._amplify(to_tokens(self.query(features))), self._amplify(to_tokens(self.key(features)))

    def _amplify(self, embedding: Tensor) -> Tensor:
        embedding = embedding.to(matching_dtype(embedding.dtype))
        norm = embedding.norm(dim=-1, keepdim=True).clamp_min(NORM_FLOOR)
        return math.sqrt(self.amplification) * embedding / norm


def random_features(embedding: Float[Tensor, "b l d"], projection: Float[Tensor, "m d"]) -> Float[Tensor, "b l m"]:
    """Positive features whose products estimate exp(query . key): (exp(w . u - |u|^2 / 2) + 1e-4) / sqrt(m)."""
    with torch.autocast(embedding.device.type, enabled=False):
        exponent = embedding @ projection.T - embedding.square().sum(-1, keepdim=True) / 2
        return (exponent.exp() + FEATURE_FLOOR) / math.sqrt(len(projection))


def orthogonal_directions(count: int, width: int, generator: torch.Generator) -> Float[Tensor, "m d"]:
    """Directions orthogonal within blocks of `width`, with the lengths of independent normal vectors."""
    blocks = [nn.init.orthogonal_(torch.empty(width, width), generator=generator) for _ in range(-(-count // width))]
    lengths = torch.randn(count, width, generator=generator).norm(dim=1, keepdim=True)
    return torch.cat(blocks)[:count] * lengths


def contrastive_loss(query: Float[Tensor, "b q d"], key: Float[Tensor, "b k d"]) -> Float[Tensor, ""]:
    """How far each query's 15 best scores are from those of ranks 51 to 65: mean of max(0, 1 - ln(best / others)).

    Exact, quadratic in time; memory is linear, for scores exist a block of queries at a time, in backward again. A map
    of 50 positions or fewer has no ranks to compare: the loss is 0.
    """
    length = key.shape[1]
    if length <= FIRST_NEGATIVE:
        return query.new_zeros((), requires_grad=False)
    block = max(1, SCORE_BLOCK_BYTES // (query.shape[0] * length * query.element_size()))
    parts = [recomputed(_sum_of_hinges, part, key) for part in query.split(block, dim=1)]
    return torch.stack(parts).sum() / (query.shape[0] * query.shape[1])


def sampled_contrastive_loss(
    query: Float[Tensor, "b q d"], key: Float[Tensor, "b k d"], *, num_queries: int, generator: torch.Generator
) -> Float[Tensor, ""]:
    """The contrastive loss of randomly drawn queries: an unbiased estimate in linear time.

    Args:
        num_queries: drawn without replacement, the same for all images.
        generator: a CPU generator.
    """
    chosen = torch.randperm(query.shape[1], generator=generator)[:num_queries].to(query.device)
    return contrastive_loss(query[:, chosen], key)


def _sum_of_hinges(query: Tensor, key: Tensor) -> Tensor:
    with torch.autocast(query.device.type, enabled=False):
        best = (query @ key.mT).topk(min(LAST_NEGATIVE, key.shape[1]), dim=-1).values.exp()
    positive = best[..., :NUM_POSITIVES].mean(-1)
    negative = best[..., FIRST_NEGATIVE:].mean(-1)
    return F.relu(1 - torch.log(positive / (negative + 1e-6))).sum()


def _sum_of_products(features: Tensor, values: Tensor) -> Tensor:
    with torch.autocast(features.device.type, enabled=False):
        return features.mT @ values


def _product(features: Tensor, summed: Tensor) -> Tensor:
    with torch.autocast(features.device.type, enabled=False):
        return features @ summed
