"""LevAttention for feature maps: all positions of an image draw on its few positions of largest leverage."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nlsr.attention.affinity import Affinity, Draws, Keep, Operator, map_size, to_tokens
from nlsr.attention.dense import DenseAffinity, embedding_width
from nlsr.attention.heads import HeadsAffinity, check_heads, split_heads
from nlsr.attention.leverage.affinities import KeySetAffinity
from nlsr.attention.leverage.scores import leverage_scores
from nlsr.attention.leverage.selection import KeySet, top_r
from nlsr.errors import ShapeError


class Leverage(Operator):
    """Match every position with the `num_keys` positions of largest leverage score; softmax of the scaled product.

    With at least as many keys as positions this is full non-local attention. Keys that many positions resemble have
    small scores: rare textures and edges are preferred to frequent smooth content, unless `regular_share` brings it in.

    Source: arXiv 2410.05462; the paper's guarantee is for powers, not for this softmax.
    """

    network_settings = ("reduction", "num_keys")
    no_graph = "decomposes a matrix on the way (torch.linalg.eigh) and looks at its numbers"

    def __init__(
        self, channels: int, *, reduction: int = 2, num_keys: int = 128, heads: int = 1, regular_share: float = 0.0
    ) -> None:
        """
        Args:
            channels: number of channels of the features.
            reduction: queries and keys have channels / reduction entries; must divide.
            num_keys: in the set; all positions of a smaller map.
            heads: equal parts of queries, keys and values, each with a set of its own; must divide.
            regular_share: share of the set, in [0, 1], that is spread evenly over the map, not chosen by leverage.
        Raises: ShapeError if sizes do not fit each other.
        """
        super().__init__()
        width = embedding_width(channels, reduction)
        check_heads(width, heads)
        if num_keys < 1 or not 0 <= regular_share <= 1:
            raise ShapeError(
                f"expected num_keys >= 1 and 0 <= regular_share <= 1, got num_keys {num_keys}, "
                f"regular_share {regular_share}"
            )
        self.query = nn.Conv2d(channels, width, 1)
        self.key = nn.Conv2d(channels, width, 1)
        self.num_keys, self.heads = num_keys, heads
        self.num_regular = int(regular_share * num_keys)

    def match(
        self, features: Float[Tensor, "b c h w"], *, draws: Draws | None = None, keep: Keep = "stored"
    ) -> Affinity:
        """Nothing is drawn. *stored* keeps positions * num_keys * heads weights."""
        query, key = self._embed(features)
        size = map_size(features)
        affinity = KeySetAffinity(
            query, key, self._choose(key, *size), scale=query.shape[2] ** -0.5, keep=keep, size=size
        )
        return affinity if self.heads == 1 else HeadsAffinity(affinity, self.heads)

    def floats_per_position(self, channels: int) -> int:
        return 2 * self.query.out_channels + self.heads * self.num_keys + channels

    def exact(self, features: Float[Tensor, "b c h w"]) -> Affinity:
        query, key = self._embed(features)
        exact = DenseAffinity(query * query.shape[2] ** -0.5, key, size=map_size(features))
        return exact if self.heads == 1 else HeadsAffinity(exact, self.heads)

    def _embed(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys of each head."""
        query, key = (split_heads(to_tokens(embed(features)), self.heads) for embed in (self.query, self.key))
        return query, key

    def _choose(self, key: Tensor, height: int, width: int) -> KeySet:
        scores = leverage_scores(key)
        scores[:, spread_positions(height, width, self.num_regular)] = torch.inf
        return top_r(scores, self.num_keys)


def spread_positions(height: int, width: int, count: int) -> Int[Tensor, " count"]:
    """Positions in row-major order, spread evenly over a map of any shape; some may coincide on a small one.

    Source: the additive recurrence of the plastic number, M. Roberts, "The unreasonable effectiveness of quasirandom
    sequences", 2018.
    """
    plastic = 1.32471795724474602596
    steps = torch.arange(count, dtype=torch.float64)
    rows = (0.5 + steps / plastic).frac() * height
    columns = (0.5 + steps / plastic**2).frac() * width
    return rows.long() * width + columns.long()
