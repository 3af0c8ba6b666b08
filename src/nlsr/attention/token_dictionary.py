"""Adaptive token dictionary (ATD): positions draw on a few learned tokens, and on positions of the same category, which
is the token that they draw on most; the dictionary adapts to the image from layer to layer.

Linear in the positions. Knows nothing of images or networks.

Source: Zhang et al., "Transcending the Limit of Local Window: Advanced Super-Resolution Transformer with Adaptive Token
Dictionary", CVPR 2024, arXiv 2401.08209. The published sort is not stable, so that groups depend on the machine; here
it is.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.attention.affinity import Affinity, Draws, Keep, map_size, matching_dtype, to_tokens
from nlsr.attention.grouped import GroupAffinity, grouped_floats, weights_in_graph
from nlsr.attention.heads import HeadsOperator
from nlsr.attention.sorted_chunks import sorted_chunks
from nlsr.errors import ShapeError

LARGEST_LOG_SCALE = math.log(100)
"""Largest logarithm of the factor of the scores of categories."""
NORM_EPS = 1e-5


class DictionaryAffinity(Affinity):
    """How each position draws on each token of a dictionary; rows sum to one.

    `weights` (b, positions, tokens) remain readable.
    """

    def __init__(self, weights: Float[Tensor, "b l m"], size: tuple[int, int]) -> None:
        super().__init__(weights.shape[1], weights.shape[2], size=size)
        self.weights = weights

    def aggregate(self, values: Float[Tensor, "b keys c"]) -> Float[Tensor, "b queries c"]:
        return self.weights.to(values.dtype) @ values

    def rows(self, queries: Int[Tensor, " q"]) -> Float[Tensor, "b q keys"]:
        return self.weights[:, queries.to(self.weights.device)]

    def categories(self) -> Int[Tensor, "b l"]:
        """The token that each position draws on most, the first of equal ones."""
        return self.weights.detach().argmax(-1)


class TokenDictionary(nn.Module):
    """Positions draw on the tokens of a dictionary: softmax over them of a scaled cosine, with a scale per token."""

    def __init__(self, channels: int, num_tokens: int, width: int) -> None:
        """
        Args:
            channels: of positions and tokens.
            num_tokens: of the dictionary.
            width: of queries and keys.
        """
        super().__init__()
        self.query = nn.Linear(channels, width)
        self.key = nn.Linear(channels, width)
        self.values = nn.Linear(channels, channels)
        self.scale = nn.Parameter(torch.full((num_tokens,), 0.5))

    def match(
        self, tokens: Float[Tensor, "b l c"], dictionary: Float[Tensor, "b m c"], size: tuple[int, int]
    ) -> DictionaryAffinity:
        """
        Args:
            tokens: of the positions of a map of this size.
        """
        query, key = self.query(tokens), self.key(dictionary)
        matching = matching_dtype(query.dtype)
        with torch.autocast(query.device.type, enabled=False):
            query, key = F.normalize(query.to(matching), dim=-1), F.normalize(key.to(matching), dim=-1)
            scale = 1 + self.scale.to(matching).clamp(0, 1) * math.log(len(self.scale))
            weights = F.softmax(query @ (scale[:, None] * key).transpose(1, 2), dim=-1)
        return DictionaryAffinity(weights.to(tokens.dtype), size)

    def forward(
        self, tokens: Float[Tensor, "b l c"], dictionary: Float[Tensor, "b m c"], size: tuple[int, int]
    ) -> tuple[Float[Tensor, "b l c"], DictionaryAffinity]:
        """What positions receive from the dictionary, and how they draw on it."""
        affinity = self.match(tokens, dictionary, size)
        return affinity.aggregate(self.values(dictionary)), affinity


class Refinement(nn.Module):
    """One soft step of k-means per image: tokens move towards the positions that draw on them most."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.kept = nn.Parameter(torch.zeros(num_tokens, 1))
        self.weight = nn.Parameter(torch.ones(num_tokens))
        self.bias = nn.Parameter(torch.zeros(num_tokens))

    def forward(
        self, dictionary: Float[Tensor, "b m c"], affinity: DictionaryAffinity, tokens: Float[Tensor, "b l c"]
    ) -> Float[Tensor, "b m c"]:
        """
        Args:
            affinity: how positions draw on the dictionary.
            tokens: of the positions, as they are now.
        """
        matching = matching_dtype(tokens.dtype)
        drawn = affinity.weights.to(matching).transpose(1, 2)
        normed = F.layer_norm(drawn, drawn.shape[2:], eps=NORM_EPS)
        attention = F.softmax(normed * self.weight[:, None] + self.bias[:, None], dim=-1).to(tokens.dtype)
        kept = torch.sigmoid(self.kept)
        return kept * dictionary + (1 - kept) * (attention @ tokens)


class TokenCategories(HeadsOperator):
    """Match positions within chunks of positions sorted by category: softmax(scale * query . key), head by head.

    Neither queries nor keys are normalised. In ATD the categories come from a dictionary that adapts to the image
    (`match_labelled`). Alone, the operator has a dictionary of random directions that belongs to its weights, and the
    category of a position is the nearest of them.
    """

    dictionary: Tensor
    network_settings = ("chunk_size", "seed")
    groups_are = "token categories"

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 1,
        chunk_size: int = 128,
        num_tokens: int | None = 64,
        seed: int = 0,
    ) -> None:
        """
        Args:
            channels: of the features, and of queries and keys.
            heads: equal parts of queries, keys and values; must divide.
            chunk_size: sorted positions per chunk. The paper calls it the size of a category.
            num_tokens: of the dictionary of random directions; None for a network that gives categories, queries and
                keys to `match_labelled`.
            seed: of the directions.
        Raises: ShapeError if sizes do not fit each other.
        """
        super().__init__(channels, heads=heads, embeds=num_tokens is not None)
        if chunk_size < 1:
            raise ShapeError(f"expected a chunk_size above zero, got {chunk_size}")
        self.chunk_size = chunk_size
        if num_tokens is not None:
            directions = torch.randn(num_tokens, channels, generator=torch.Generator().manual_seed(seed))
            self.register_buffer("dictionary", F.normalize(directions, dim=-1))
        self.log_scale = nn.Parameter(torch.full((1, 1), math.log(10)))

    def match(
        self, features: Float[Tensor, "b c h w"], *, draws: Draws | None = None, keep: Keep = "stored"
    ) -> GroupAffinity:
        """Nothing is drawn: the directions belong to the weights."""
        tokens = to_tokens(features)
        with torch.no_grad():
            labels = (tokens @ self.dictionary.to(tokens.dtype).T).argmax(-1)
        return self.match_labelled(labels, self.query(tokens), self.key(tokens), *map_size(features), keep=keep)

    def match_labelled(
        self,
        labels: Int[Tensor, "b l"],
        query: Float[Tensor, "b l c"],
        key: Float[Tensor, "b l c"],
        height: int,
        width: int,
        *,
        keep: Keep,
    ) -> GroupAffinity:
        """As `match`, for whoever has categories, queries and keys of a height x width map already."""
        layout = sorted_chunks(labels, chunk_size=self.chunk_size, size=(height, width))
        return GroupAffinity(layout, query * self.score_scale, key, heads=self.heads, keep=keep)

    @property
    def score_scale(self) -> Float[Tensor, "1 1"]:
        return self.log_scale.clamp(max=LARGEST_LOG_SCALE).exp()

    def floats_per_position(self, channels: int) -> int:
        return grouped_floats(self.width, channels, self.heads, keys=self.chunk_size)

    def floats_in_graph(self) -> int:
        return weights_in_graph(self.heads, keys=self.chunk_size)
