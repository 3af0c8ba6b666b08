"""Random directions that sort positions into buckets: drawn reproducibly, or given.

Positions whose embeddings point the same way fall into the same bucket with high probability.
"""

from abc import abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nlsr.attention.affinity import Draws, matching_dtype
from nlsr.attention.chunked import chunked_floats, chunks_in_graph
from nlsr.attention.embedding import EmbeddingOperator
from nlsr.attention.streamed import in_graph

MAX_BUCKETS = 128


class HashOperator(EmbeddingOperator):
    """An operator whose positions are sorted by bucket, several rounds over. A subclass embeds and draws."""

    network_settings = ("reduction", "chunk_size", "rounds", "seed")
    both_signs: bool
    """Whether each direction is that of two buckets."""
    directions_held: Tensor

    def __init__(self, width: int, *, chunk_size: int, rounds: int, seed: int) -> None:
        """
        Args:
            width: entries of the embedding.
            chunk_size: sorted positions per chunk; each attends to three chunks.
            rounds: independent hashes.
            seed: seed of the directions; different for each operator of a network.
        """
        super().__init__()
        self.width, self.chunk_size, self.rounds, self.seed = width, chunk_size, rounds, seed

    @abstractmethod
    def _draw(self, buckets: int, generator: torch.Generator) -> Float[Tensor, "1 d r k"]:
        """Directions for so many buckets."""

    def every_direction(self) -> Tensor:
        return directions_of_all_sizes(self._draw, self.seed)

    def _buckets(self, embedding: Float[Tensor, "b l d"], draws: Draws | None) -> Int[Tensor, "b r l"]:
        length = embedding.shape[1]
        if in_graph():
            held = self.directions_held
            drawn, unused = directions_in_graph(held, length, self.chunk_size, both_signs=self.both_signs)
            return bucket_codes(embedding, drawn, both_signs=self.both_signs, unused=unused)
        buckets = num_buckets(length, self.chunk_size)
        drawn = directions(draws, self.seed, lambda generator: self._draw(buckets, generator), embedding)
        return bucket_codes(embedding, drawn, both_signs=self.both_signs)

    def floats_per_position(self, channels: int) -> int:
        return chunked_floats(self.width, channels, rounds=self.rounds, chunk_size=self.chunk_size)

    def floats_in_graph(self) -> int:
        return chunks_in_graph(self.width, rounds=self.rounds, chunk_size=self.chunk_size)


def num_buckets(length: int, chunk_size: int) -> int:
    """About one bucket per full chunk: even, at least 2, at most 128."""
    chunks = length // chunk_size
    return max(2, min(chunks + chunks % 2, MAX_BUCKETS))


def directions(
    draws: Draws | None, seed: int, draw: Callable[[torch.Generator], Tensor], like: Tensor
) -> Float[Tensor, "1 d r b"]:
    """Given directions as they are, new ones from a generator, or those of a seed.

    Args:
        draw: makes directions of the right shape from a CPU generator, so that every device gets the same.
    """
    if isinstance(draws, Tensor):
        drawn = draws
    else:
        drawn = draw(torch.Generator().manual_seed(seed) if draws is None else draws)
    return drawn.to(like.device, matching_dtype(like.dtype))


def directions_of_all_sizes(
    draw: Callable[[int, torch.Generator], Float[Tensor, "1 d r k"]], seed: int
) -> Float[Tensor, "1 d r all_k"]:
    """For a graph: those of the smallest number of buckets, of the next, and so on.

    Args:
        draw: makes directions for so many buckets.
    """
    numbers = range(2, MAX_BUCKETS + 1, 2)
    return torch.cat([draw(number, torch.Generator().manual_seed(seed)) for number in numbers], dim=-1)


def directions_in_graph(
    held: Float[Tensor, "1 d r all_k"], length: int, chunk_size: int, *, both_signs: bool
) -> tuple[Float[Tensor, "1 d r most"], Bool[Tensor, " most"]]:
    """Those that a map of so many positions has, of `directions_of_all_sizes`, and which of them it has not."""
    chunks = torch.full((1,), length) // chunk_size
    pairs = ((chunks + 1) // 2).clamp(1, MAX_BUCKETS // 2)  # of buckets
    step = 1 if both_signs else 2
    slot = torch.arange(step * MAX_BUCKETS // 2)
    before = step * pairs * (pairs - 1) // 2
    return held[..., (before + slot).clamp_max(held.shape[-1] - 1)], slot >= step * pairs


@torch.no_grad()
def bucket_codes(
    embedding: Float[Tensor, "b l d"],
    directions: Float[Tensor, "1 d r k"],
    *,
    both_signs: bool,
    unused: Bool[Tensor, " k"] | None = None,
) -> Int[Tensor, "b r l"]:
    """The direction, in each round, on which an embedding projects most; the lowest index on a tie.

    Args:
        both_signs: each direction also stands for its opposite, numbered after all others.
        unused: directions that are none.
    """
    with torch.autocast(embedding.device.type, enabled=False):
        projected = torch.einsum("bld,drk->brlk", embedding.to(directions.dtype), directions[0])
    if both_signs:
        projected = torch.cat((projected, -projected), dim=-1)
        unused = None if unused is None else torch.cat((unused, unused))
    if unused is not None:
        projected = projected.masked_fill(unused, -torch.inf)
    return projected.argmax(-1)
