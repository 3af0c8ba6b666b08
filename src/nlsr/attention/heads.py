"""Heads: equal parts of the channels, each with an affinity of its own."""

from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nlsr.attention.affinity import Affinity, Operator, map_size, to_tokens
from nlsr.attention.dense import DenseAffinity
from nlsr.errors import ShapeError


class HeadsOperator(Operator):
    """What operators share whose queries and keys are linear in the features and divided into heads."""

    def __init__(
        self, channels: int, *, width: int | None = None, heads: int = 1, bias: bool = True, embeds: bool = True
    ) -> None:
        """
        Args:
            channels: of the features.
            width: of queries and keys, of all heads; as many as channels by default.
            heads: equal parts of queries, keys and values; must divide.
            bias: whether queries and keys have one.
            embeds: makes queries and keys; False for a network that has them already.
        Raises: ShapeError if the heads do not divide the width.
        """
        super().__init__()
        self.width, self.heads = width or channels, heads
        check_heads(self.width, heads)
        if embeds:
            self.query = nn.Linear(channels, self.width, bias=bias)
            self.key = nn.Linear(channels, self.width, bias=bias)

    @property
    def score_scale(self) -> float | Tensor:
        """What queries are multiplied by."""
        return (self.width // self.heads) ** -0.5

    def exact(self, features: Float[Tensor, "b c h w"]) -> Affinity:
        """Without biases, which belong to slots."""
        tokens = to_tokens(features)
        query = split_heads(self.query(tokens) * self.score_scale, self.heads)
        key = split_heads(self.key(tokens), self.heads)
        return HeadsAffinity(DenseAffinity(query, key, size=map_size(features)), self.heads)


class HeadsAffinity(Affinity):
    """One affinity per head, each for its own equal part of the values' channels.

    Rows are those of all heads, folded into the batch: row b * heads + h belongs to head h of image b.
    """

    def __init__(self, affinity: Affinity, heads: int) -> None:
        """
        Args:
            affinity: the affinity of all images and heads, folded into the batch.
        """
        super().__init__(affinity.num_queries, affinity.num_keys, size=(affinity.height, affinity.width))
        self.affinity, self.heads = affinity, heads

    def aggregate(self, values: Float[Tensor, "b keys c"]) -> Float[Tensor, "b queries c"]:
        """Raises: ShapeError if the channels cannot be shared out equally."""
        return join_heads(self.affinity.aggregate(split_heads(values, self.heads)), self.heads)

    def rows(self, queries: Int[Tensor, " q"]) -> Float[Tensor, "b_heads q keys"]:
        return self.affinity.rows(queries)

    @property
    def reach_is(self) -> str:  # type: ignore[override]
        return self.affinity.reach_is

    def reach(self, queries: Int[Tensor, " q"]) -> Bool[Tensor, " keys"] | None:
        return self.affinity.reach(queries)

    def groups(self) -> Int[Tensor, "b_heads r keys"] | None:
        return self.affinity.groups()


def split_heads(tokens: Float[Tensor, "b l c"], heads: int) -> Float[Tensor, "b_heads l part"]:
    """Equal parts of the channels, folded into the batch. Raises: ShapeError if heads do not divide the channels."""
    check_heads(tokens.shape[2], heads)
    return rearrange(tokens, "b l (heads part) -> (b heads) l part", heads=heads)


def join_heads(tokens: Float[Tensor, "b_heads l part"], heads: int) -> Float[Tensor, "b l c"]:
    """The inverse of `split_heads`."""
    return rearrange(tokens, "(b heads) l part -> b l (heads part)", heads=heads)


def check_heads(channels: int, heads: int) -> None:
    """Raises: ShapeError if the heads do not divide the channels."""
    if heads < 1 or channels % heads:
        raise ShapeError(f"expected heads that divide {channels} channels, got {heads}")
