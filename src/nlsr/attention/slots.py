"""Layouts for a graph that takes maps of every size: groups have equally many slots, and those that hold no position
are marked. Which position sits in which slot is computed in the graph, in numbers of any size.

The layouts of `shifted_window.py`, `shared_window.py`, `overlapping_window.py` and `sorted_chunks.py` in this form.
Knows nothing of heads and weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nlsr.attention.chunked import pick, sorted_in_graph
from nlsr.attention.grouped import Layout, Places


@dataclass(frozen=True)
class Cover:
    """In which slot of which group along a side each coordinate is, and what it takes of it."""

    group: Int[Tensor, " side"]
    slot: Int[Tensor, " side"]
    share: Float[Tensor, " side"] | None = None
    """None for all of it."""


@dataclass(frozen=True)
class Line:
    """Groups along one side of a map."""

    coordinates: Int[Tensor, "g n"]
    """What is in each slot; any coordinate where a slot is unused."""
    unused: Bool[Tensor, "g n"]
    covers: Sequence[Cover]


class Slots(Layout):
    """Which position sits in which slot, in numbers."""

    reach_is = "in its group"

    def __init__(
        self,
        size: tuple[int, int],
        queries: Int[Tensor, "*b g n"],
        keys: Int[Tensor, "*b g m"],
        unused: Bool[Tensor, "g m"],
        receives: Sequence[tuple[Int[Tensor, "*b l"], Float[Tensor, " l"] | None]],
    ) -> None:
        """
        Args:
            size: height and width of the map.
            queries, keys: the positions in the slots of each group; with a first axis, of each image for itself.
            unused: key slots that hold nothing.
            receives: query slots that each position receives from, counted through all groups, and its share of them.
        """
        self.height, self.width = size
        self._queries, self._keys, self._unused, self._receives = queries, keys, unused, receives

    def queries(self, tokens: Float[Tensor, "b l c"]) -> list[Float[Tensor, "_ _ c"]]:
        self._batch = tokens.shape[0]  # which a piece does not tell
        return [_gathered(tokens, self._queries)]

    def keys(self, tokens: Float[Tensor, "b l c"]) -> list[Float[Tensor, "_ _ c"]]:
        return [_gathered(tokens, self._keys)]

    def restore(self, pieces: list[Float[Tensor, "_ _ c"]]) -> Float[Tensor, "b l c"]:
        (piece,) = pieces
        groups, size = self._queries.shape[-2:]
        slots = piece.reshape(self._batch, groups * size, piece.shape[2])
        drawn = []
        for index, share in self._receives:
            picked = _picked(slots, index)
            drawn.append(picked if share is None else picked * share.to(picked.dtype)[:, None])
        return sum(drawn[1:], start=drawn[0])

    def coverage(self) -> Float[Tensor, " l"]:
        """The sum of the shares of each position."""
        shares = [torch.ones(index.shape[-1]) if share is None else share for index, share in self._receives]
        return sum(shares[1:], start=shares[0])

    def unused(self) -> list[Bool[Tensor, "g m"]]:
        return [self._unused]

    def places(self) -> list[Places]:
        """Nobody asks a graph for rows."""
        raise NotImplementedError("a graph has no rows")


def windows(height: int, width: int, window_size: int, *, offset: int = 0) -> Slots:
    """As `shifted_window.Windows`."""
    return _crossed(*(_in_windows(side, window_size, offset) for side in (height, width)))


def grids(height: int, width: int, side: int) -> Slots:
    """As `shared_window.Grids`."""
    return _crossed(*(_in_grids(length, side) for length in (height, width)))


def overlapping_windows(height: int, width: int, window_size: int, overlap: int, *, published: bool) -> Slots:
    """As `overlapping_window.OverlappingWindows`."""
    sides = (_in_overlapping_windows(side, window_size, overlap, published) for side in (height, width))
    return _crossed(*sides)


def sorted_chunks(codes: Int[Tensor, "b l"], *, chunk_size: int, span: int, size: tuple[int, int]) -> Slots:
    """As `sorted_chunks.SortedChunks`."""
    length = codes.shape[1]
    order, slots, number = sorted_in_graph(codes)
    chunks = (length + chunk_size - 1) // chunk_size
    slot = torch.arange((chunks + span - 1) * chunk_size)
    mirrored = slot % (2 * number)
    order = order[:, torch.minimum(mirrored, 2 * number - 1 - mirrored)]
    # A map of fewer positions than a chunk is one chunk, whose keys are those of `span` such chunks.
    unused = (slot >= span * number) & (number < chunk_size)
    order = order.view(order.shape[0], chunks + span - 1, chunk_size)
    unused = unused.view(chunks + span - 1, chunk_size)
    keys = torch.cat([order[:, first : first + chunks] for first in range(span)], dim=2)
    without = torch.cat([unused[first : first + chunks] for first in range(span)], dim=1)
    return Slots(size, order[:, :chunks], keys, without, [(slots, None)])


def _in_windows(length: int, size: int, offset: int) -> Line:
    """The first window begins where a whole one would end with the offset."""
    before = (size - offset) % size
    count = (length + before + size - 1) // size
    coordinates = torch.arange(count * size).view(count, size) - before
    unused = (coordinates < 0) | (coordinates >= length)
    place = torch.arange(length) + before
    return Line(coordinates.clamp_min(0).clamp_max(length - 1), unused, [Cover(place // size, place % size)])


def _in_grids(length: int, size: int) -> Line:
    step = (length + size - 1) // size
    coordinates = torch.arange(step)[:, None] + step * torch.arange(size)
    place, number = torch.arange(length), _number(step)
    cover = Cover(place % number, place // number)
    return Line(coordinates.clamp_max(length - 1), coordinates >= length, [cover])


def _in_overlapping_windows(length: int, size: int, overlap: int, published: bool) -> Line:
    """The last window ends with the side; a side shorter than a window has one, some of whose slots are unused."""
    step, side = size - overlap, _number(length)
    count = 1 + (length + overlap // length - overlap - 1) // step  # one for a side of no more than the overlap
    used, start_of_last = side.clamp_max(size), (side - size).clamp_min(0)
    if published:
        short = (2 * side > size) & (side < size)
        used = torch.where(short, size - side, used)
        start_of_last = torch.where(short, 2 * side - size, start_of_last)
    window = torch.arange(count)
    starts = torch.where(window < count - 1, step * window, start_of_last)
    slot = torch.arange(size)
    coordinates = starts[:, None] + slot
    unused = (slot >= used).expand_as(coordinates)
    return Line(coordinates.clamp_max(length - 1), unused, _covers(length, starts, used, size, step, published))


def _covers(length: int, starts: Tensor, used: Tensor, size: int, step: int, published: bool) -> list[Cover]:
    """A coordinate is in the last window that begins before it, perhaps in those before, and in the last of all."""
    place = torch.arange(length)
    last = _number(starts.shape[0]) - 1
    own = torch.minimum(place // step, last)
    candidates = [(own - back, own >= back) for back in range(-(-size // step))]
    found = []
    for group, differs in (*candidates, (last.expand_as(own), own < last)):
        slot = place - starts[group.clamp_min(0)]
        found.append((group.clamp_min(0), slot, differs & (slot >= 0) & (slot < used)))
    number = torch.stack([present for _, _, present in found]).sum(0)
    divisor = torch.where(number == 3, 4, number) if published else number
    return [
        Cover(group, slot.clamp_min(0).clamp_max(size - 1), present / divisor.clamp_min(1))
        for group, slot, present in found
    ]


def _crossed(down: Line, across: Line) -> Slots:
    """Groups of a map, each of a group along either side."""
    height, width = (line.covers[0].group.shape[0] for line in (down, across))
    positions = down.coordinates[:, None, :, None] * width + across.coordinates[None, :, None]
    unused = down.unused[:, None, :, None] | across.unused[None, :, None]
    num_across, size = across.coordinates.shape
    receives = []
    for row in down.covers:
        for column in across.covers:
            group = row.group[:, None] * num_across + column.group
            slot = row.slot[:, None] * size + column.slot
            share = None
            if row.share is not None and column.share is not None:
                share = (row.share[:, None] * column.share).flatten()
            receives.append(((group * (down.coordinates.shape[1] * size) + slot).flatten(), share))
    positions = positions.flatten(2).flatten(0, 1)
    return Slots((height, width), positions, positions, unused.flatten(2).flatten(0, 1), receives)


def _gathered(tokens: Float[Tensor, "b l c"], index: Int[Tensor, "*b g n"]) -> Float[Tensor, "_ n c"]:
    batch, _, channels = tokens.shape
    groups, size = index.shape[-2:]
    return _picked(tokens, index.flatten(-2)).view(batch * groups, size, channels)


def _picked(tokens: Float[Tensor, "b l c"], index: Int[Tensor, "*b k"]) -> Float[Tensor, "b k c"]:
    """By the same index in all images, or by one for each."""
    return tokens.index_select(1, index) if index.ndim == 1 else pick(tokens, index)


def _number(symbol: int) -> Int[Tensor, "1"]:
    """A symbol as a tensor, for engines that divide by no symbol."""
    return torch.full((1,), symbol, dtype=torch.int64)
