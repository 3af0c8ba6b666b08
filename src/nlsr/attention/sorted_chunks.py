"""Positions sorted by group and cut into chunks: a chunk attends to itself, and to those after it if it should.

Unlike `chunked.py` (NLSA, GLA, LCoA) the chunks have neighbours on one side or none, and the sequence is continued
beyond its end by its mirror image: the layout of CATANet and ATD.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nlsr.attention import slots
from nlsr.attention.chunked import pick
from nlsr.attention.grouped import Layout, Places
from nlsr.attention.streamed import in_graph
from nlsr.mirror import mirrored


def sorted_chunks(codes: Int[Tensor, "b l"], *, chunk_size: int, size: tuple[int, int], span: int = 1) -> Layout:
    """`SortedChunks`, in a graph in its form for maps of every size."""
    kind = slots.sorted_chunks if in_graph() else SortedChunks
    return kind(codes, chunk_size=chunk_size, span=span, size=size)


class SortedChunks(Layout):
    """Chunks of sorted positions; queries of one chunk, keys of `span` chunks from that one on.

    The sequence is continued by its mirror image, the last position once more first, until the last chunk is full and
    has as many chunks after it as the others. A map of fewer positions than a chunk is one chunk.
    """

    def __init__(
        self, codes: Int[Tensor, "b l"], *, chunk_size: int, span: int = 1, size: tuple[int, int] | None = None
    ) -> None:
        """
        Args:
            codes: the group of each position. Sorts are stable: equal codes stay in row-major order.
            size: height and width of the map; one row by default.
        """
        length = codes.shape[1]
        self.codes = codes
        self.height, self.width = size or (1, length)
        self.chunk_size, self.span = min(chunk_size, length), span
        self.num_chunks = -(-length // self.chunk_size)
        order = codes.sort(dim=1, stable=True).indices
        self.slots = torch.empty_like(order).scatter_(1, order, torch.arange(length).to(order).expand_as(order))
        self.order = order[:, mirrored(0, (self.num_chunks + span - 1) * self.chunk_size, length, order.device)]

    @property
    def reach_is(self) -> str:  # type: ignore[override]
        return "in its chunk of sorted positions" + (" or the next" if self.span > 1 else "")

    def queries(self, tokens: Float[Tensor, "b l c"]) -> list[Float[Tensor, "_ _ c"]]:
        return [pick(tokens, self._query_order()).view(-1, self.chunk_size, tokens.shape[2])]

    def keys(self, tokens: Float[Tensor, "b l c"]) -> list[Float[Tensor, "_ _ c"]]:
        """Overlapping views of the sorted sequence: for one image nothing is copied twice."""
        windows = pick(tokens, self.order).unfold(1, self.span * self.chunk_size, self.chunk_size)
        return [windows.transpose(2, 3).flatten(0, 1)]

    def restore(self, pieces: list[Float[Tensor, "_ _ c"]]) -> Float[Tensor, "b l c"]:
        (piece,) = pieces
        return pick(piece.view(len(self.slots), -1, piece.shape[2]), self.slots)

    def places(self) -> list[Places]:
        queries = self._query_order().clone()
        queries[:, self.slots.shape[1] :] = -1  # these are copies
        keys = self.order.unfold(1, self.span * self.chunk_size, self.chunk_size)
        return [Places(queries.unflatten(1, (self.num_chunks, -1)), keys)]

    def groups(self) -> Int[Tensor, "b 1 l"]:
        return self.codes[:, None]

    def _query_order(self) -> Int[Tensor, "b p"]:
        return self.order[:, : self.num_chunks * self.chunk_size]
