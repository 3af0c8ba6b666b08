"""What operators miss: their error against exact attention, and how many of the truly strongest keys they reach.

Both are taken on features of a trained network, inside a picture: on noise every key is as good as any other.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nlsr.attention import OPERATORS, Affinity, ChunkedAffinity, DenseAffinity, KMeans
from nlsr.attention.affinity import to_tokens
from nlsr.attention.embedding import unit_keys
from nlsr.attention.global_learnable import super_bits
from nlsr.attention.hashing import bucket_codes, num_buckets
from nlsr.default import DEFAULT_MODEL
from nlsr.networks import LCoAN
from nlsr.weights import load

STRONGEST = 16
"""Keys of a query whose recall is counted."""
QUERIES = 512
"""Positions, evenly spread, that stand for all."""
LARGEST_SIDE = 200
"""Only the middle of a picture is looked at, up to this side: exact attention is quadratic."""
CHUNK = 64
"""Sorted positions per window in the comparison of patterns: that of the trained network."""


@dataclass(frozen=True)
class Quality:
    """One operator on one feature map."""

    name: str
    rounds: int
    error: float
    """Norm of the difference to what exact attention draws, over the norm of the latter."""
    recall: float
    """Which share of the `STRONGEST` keys by exact score is among the operator's own strongest."""
    mass: float
    """Exact attention's weight on keys that the operator gives any."""


def trained_features(image: Float[Tensor, "1 3 h w"], model: str = DEFAULT_MODEL) -> Float[Tensor, "1 c h w"]:
    """What the first attention of a trained network sees."""
    network = load(model)
    assert isinstance(network, LCoAN)
    seen: list[Tensor] = []
    attention = network.groups[0].attention
    hook = attention.register_forward_hook(lambda module, inputs, outputs: seen.append(inputs[0]))  # type: ignore[union-attr]
    with torch.inference_mode():
        network(image)
    hook.remove()
    return seen[0].clone()


@torch.no_grad()
def operator_quality(features: Float[Tensor, "1 c h w"]) -> list[Quality]:
    """Each operator, untrained, against exact attention with its own queries and keys.

    For operators whose keys take part in what is learned beside the match (window and grid with their bias) the exact
    one has none of it.
    """
    rows = []
    for name, kind in OPERATORS.items():
        torch.manual_seed(0)
        operator = kind(features.shape[1])
        affinity, exact = operator.match(features), operator.exact(features)
        if exact is not None:
            groups = affinity.groups()
            rounds = 1 if groups is None else groups.shape[1]
            rows.append(_compare(name, rounds, affinity, exact, to_tokens(features)[0]))
    return rows


@torch.no_grad()
def pattern_quality(features: Float[Tensor, "1 c h w"], model: str = DEFAULT_MODEL) -> list[Quality]:
    """How well sorting brings similar positions together: the trained k-means pattern, hashing and super-bit hashing,
    on one trained embedding, in windows of one size, at 1, 2 and 4 rounds.

    The trained network has one round of centroids; further rounds are learned from the same embedding.
    """
    network = load(model)
    embedding = to_tokens(network.get_submodule("groups.0.attention.operator.embed")(features))
    centroids = network.get_buffer("groups.0.attention.operator.kmeans.centroids")
    exact = DenseAffinity(embedding, unit_keys(embedding))
    width, buckets = embedding.shape[2], num_buckets(embedding.shape[1], CHUNK)
    rows = []
    for rounds in (1, 2, 4):
        generator = torch.Generator().manual_seed(0)
        kmeans = KMeans(centroids.shape[1], width, rounds=rounds)
        kmeans.learn(embedding, kmeans(embedding), generator=generator)
        kmeans.centroids[0] = centroids[0]
        drawn = torch.randn(1, width, rounds, buckets // 2, generator=generator)
        bits = super_bits(width, rounds, buckets, generator)
        codes = {
            "k-means, trained": kmeans(embedding),
            "hash": bucket_codes(embedding, drawn, both_signs=True),
            "super-bit hash": bucket_codes(embedding, bits, both_signs=False),
        }
        for name, code in codes.items():
            affinity = ChunkedAffinity(code, embedding, chunk_size=CHUNK, keep="recomputed")
            rows.append(_compare(name, rounds, affinity, exact, to_tokens(features)[0]))
    return rows


def _compare(name: str, rounds: int, affinity: Affinity, exact: Affinity, values: Float[Tensor, "keys c"]) -> Quality:
    queries = torch.linspace(0, exact.num_queries - 1, min(QUERIES, exact.num_queries)).round().long().unique()
    ours, theirs = affinity.rows(queries)[0], exact.rows(queries)[0]
    drawn, expected = ours @ values, theirs @ values
    strongest = theirs.topk(min(STRONGEST, exact.num_keys)).indices
    reached = torch.zeros_like(ours, dtype=torch.bool).scatter_(1, ours.topk(strongest.shape[1]).indices, True) & (
        ours > 0
    )
    return Quality(
        name,
        rounds,
        error=((drawn - expected).norm() / expected.norm()).item(),
        recall=reached.gather(1, strongest).float().mean().item(),
        mass=(theirs * (ours > 0)).sum(1).mean().item(),
    )
