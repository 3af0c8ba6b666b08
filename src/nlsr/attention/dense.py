"""Exact softmax attention over all positions: the reference, in memory linear in the positions.

The L x L matrix never exists: queries are taken in blocks, and backward computes each block again.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.attention.affinity import (
    Affinity,
    Draws,
    Keep,
    Operator,
    SharedAttention,
    map_size,
    matching_dtype,
    to_tokens,
)
from nlsr.attention.streamed import Block, in_blocks, in_graph, query_blocks
from nlsr.errors import ShapeError


class DenseAffinity(Affinity):
    """softmax_j(query_i . key_j) over all keys; quadratic in time, linear in memory."""

    def __init__(
        self, query: Float[Tensor, "b q d"], key: Float[Tensor, "b k d"], *, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__(query.shape[1], key.shape[1], size=size)
        self.query = query.to(matching_dtype(query.dtype))
        self.key = key.to(matching_dtype(key.dtype))

    def aggregate(self, values: Float[Tensor, "b keys c"]) -> Float[Tensor, "b queries c"]:
        if in_graph():
            return _attend_in_graph(self.query, self.key, values)
        batch, _, channels = values.shape
        blocks = query_blocks(batch, self.num_queries, self.query.element_size() * self.num_keys)
        return in_blocks(_attend, blocks, (batch, self.num_queries, channels), self.query, self.key, values)

    def rows(self, queries: Int[Tensor, " q"]) -> Float[Tensor, "b q keys"]:
        return _weights(self.query[:, queries.to(self.query.device)], self.key)


class NonLocal(Operator):
    """Full non-local attention: every position draws on all others by the softmax of an embedded dot product.

    Two 1x1 convolutions with a one-slope PReLU each embed queries and keys; the dot product is not scaled.

    Source: the attention of NLAN, the quadratic baseline of LCoAN and NLSN.
    """

    network_settings = ("reduction",)

    def __init__(self, channels: int, *, reduction: int = 2) -> None:
        """
        Args:
            channels: number of channels of the features.
            reduction: queries and keys have channels / reduction entries; must divide.
        """
        super().__init__()
        width = embedding_width(channels, reduction)
        self.width = width
        self.query = nn.Sequential(nn.Conv2d(channels, width, 1), nn.PReLU())
        self.key = nn.Sequential(nn.Conv2d(channels, width, 1), nn.PReLU())

    def match(
        self, features: Float[Tensor, "b c h w"], *, draws: Draws | None = None, keep: Keep = "recomputed"
    ) -> DenseAffinity:
        """Whatever `keep` says, the weights are recomputed: storing them would be quadratic in memory."""
        query, key = to_tokens(self.query(features)), to_tokens(self.key(features))
        return DenseAffinity(query, key, size=map_size(features))

    def floats_per_position(self, channels: int) -> int:
        return 2 * self.width

    def exact(self, features: Float[Tensor, "b c h w"]) -> DenseAffinity:
        return self.match(features)


def nonlocal_attention(
    channels: int, *, reduction: int = 2, residual_scale: float = 1.0, input_scale: float = 1.0
) -> SharedAttention:
    """Full non-local attention as one block; values are embedded by a 1x1 convolution and PReLU.

    As published by NLAN, a scale multiplies the **input**: `input_scale * features + softmax(Q K^T) V`.
    """
    values = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.PReLU())
    operator = NonLocal(channels, reduction=reduction)
    return SharedAttention(channels, operator, values=values, residual_scale=residual_scale, input_scale=input_scale)


def embedding_width(channels: int, reduction: int) -> int:
    """channels / reduction. Raises: ShapeError if it does not divide."""
    if reduction < 1 or channels % reduction:
        raise ShapeError(f"expected a reduction that divides {channels} channels, got {reduction}")
    return channels // reduction


def _attend(block: Block, query: Tensor, key: Tensor, values: Tensor) -> Tensor:
    return _weights(query[:, block[1]], key).to(values.dtype) @ values


def _attend_in_graph(query: Tensor, key: Tensor, values: Tensor) -> Tensor:
    """By the operation that holds a block of weights at a time, which wants queries and values of one width."""
    width = max(query.shape[2], values.shape[2])
    query, key, filled = (F.pad(tokens, (0, width - tokens.shape[2]))[:, None] for tokens in (query, key, values))
    return F.scaled_dot_product_attention(query, key, filled, scale=1.0)[:, 0, :, : values.shape[2]]


def _weights(query: Tensor, key: Tensor) -> Tensor:
    with torch.autocast(query.device.type, enabled=False):
        return F.softmax(query @ key.transpose(1, 2), dim=-1)
