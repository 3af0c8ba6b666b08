"""Progressive focused attention (PFT): the weights of one layer are multiplied into those of the next, and of every row
only the largest are kept; what is not kept is not drawn on any more.

Linear in the positions. Knows nothing of images or networks.

Source: Long et al., "Progressive Focused Transformer for Single Image Super-Resolution", CVPR 2025, arXiv 2503.20337.
The published kernels lose gradients of keys and values to a race of threads, and run on one kind of device; here sparse
products are dense ones in blocks, or gathered where few keys are left.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from nlsr.attention.affinity import Draws, Keep, map_size, matching_dtype, to_tokens
from nlsr.attention.grouped import GroupAffinity, Layout, by_head, of_each_image, side_by_side, without
from nlsr.attention.heads import check_heads
from nlsr.attention.shifted_window import ShiftedWindow
from nlsr.attention.streamed import BLOCK_BYTES, budget, in_graph, recomputed
from nlsr.errors import ShapeError

EPS = 1e-20
"""Added to every product of weights and to the sum of a row, as published."""
GATHERED = 32
"""Where of so many keys one is left, gathering them is faster than a dense product: 5 times at 32 of 1024."""

Focus = tuple[Float[Tensor, "_ _ _ _"], Int[Tensor, "_ _ _ _"] | None]
"""The kept weights of a piece, and which key slot each belongs to; None for all, in order."""


class FocusedAffinity(GroupAffinity):
    """Each position draws on the keys that were kept for it, head by head; a row sums to what was kept of one."""

    def __init__(self, layout: Layout, focus: list[Focus]) -> None:
        super(GroupAffinity, self).__init__(layout.height * layout.width, size=(layout.height, layout.width))
        self.layout, self.focus = layout, focus
        self.heads = len(focus) if in_graph() else focus[0][0].shape[1]
        self._stored = [weights for weights, _ in focus]

    reach_is = "kept of its window"

    def aggregate(self, values: Float[Tensor, "b keys c"]) -> Float[Tensor, "b queries c"]:
        """Raises: ShapeError if the heads cannot share the channels equally."""
        check_heads(values.shape[2], self.heads)
        pieces = _pieces(self.layout.keys(values), self.heads)
        drawn = [
            side_by_side(aggregate(weights, kept, piece))
            for (weights, kept), piece in zip(self.focus, pieces, strict=True)
        ]
        return self.layout.restore([torch.cat(drawn, dim=2)] if in_graph() else drawn)

    def reach(self, queries: Int[Tensor, " q"]) -> Bool[Tensor, " keys"]:
        hits = (self._hits(index, places, queries)[3] for index, places in enumerate(self.layout.places()))
        return self.marked(*hits)

    def _drawn_on(
        self, index: int, keys: Int[Tensor, "k m"], which: Int[Tensor, " k"], slot: Int[Tensor, " k"]
    ) -> Int[Tensor, "k _ m2"]:
        kept = self.focus[index][1]
        if kept is None:
            return keys[:, None]
        return keys[:, None].expand(-1, self.heads, -1).gather(2, kept[which, :, slot].to(keys.device))


class FocusedWindow(ShiftedWindow):
    """Match the positions of each window, times how they matched before, and keep the largest weights of each row.

    Alone, nothing was matched before.
    """

    def __init__(self, channels: int, *, num_keys: int = 32, shared_bias: bool = True, **windows: Any) -> None:
        """
        Args:
            num_keys: that are kept for each position and head.
            channels, shared_bias: see `ShiftedWindow`.
            windows: further keywords of `ShiftedWindow`.
        Raises: ShapeError if sizes do not fit each other.
        """
        super().__init__(channels, shared_bias=shared_bias, **windows)
        if num_keys < 1:
            raise ShapeError(f"expected num_keys above zero, got {num_keys}")
        self.num_keys = num_keys

    def match(
        self, features: Float[Tensor, "b c h w"], *, draws: Draws | None = None, keep: Keep = "stored"
    ) -> FocusedAffinity:
        """Nothing is drawn. Whatever `keep` says, the kept weights are stored: they are few."""
        tokens = to_tokens(features)
        return self.match_embedded(self.query(tokens), self.key(tokens), *map_size(features))

    def match_embedded(
        self,
        query: Float[Tensor, "b l c"],
        key: Float[Tensor, "b l c"],
        height: int,
        width: int,
        *,
        keep: Keep = "stored",
        before: FocusedAffinity | None = None,
    ) -> FocusedAffinity:
        """As `match`, for whoever has queries, not yet scaled, and keys of a height x width map already.

        Args:
            before: what an earlier operator with the same windows kept.
        """
        layout = self.layout(height, width)
        matching = matching_dtype(query.dtype)
        scaled, key = query.to(matching) * self.score_scale, key.to(matching)
        queries, keys = (_pieces(given, self.heads) for given in (layout.queries(scaled), layout.keys(key)))
        biases = [bias.to(matching) for bias in self.biases(layout)]
        if in_graph():
            biases = list(biases[0].expand(self.heads, -1, -1).split(1))
        marked = layout.unused()
        unused = None if marked is None else of_each_image(marked[0], query.shape[0])
        pieces = list(zip(queries, keys, biases, strict=True))
        earlier = [(None, None)] * len(pieces) if before is None else before.focus
        focus = [
            narrow(*piece, unused, *kept, num_keys=self.num_keys) for piece, kept in zip(pieces, earlier, strict=True)
        ]
        return FocusedAffinity(layout, focus)

    def floats_per_position(self, channels: int) -> int:
        return 3 * self.heads * self.num_keys + 3 * self.width + 2 * channels


def _pieces(given: list[Float[Tensor, "_ _ c"]], heads: int) -> list[Float[Tensor, "_ _ _ d"]]:
    """By head. Each head of a graph is a piece of its own: engines that know no sizes hold as much as the largest
    tensor many times, and the scores of all heads would be gigabytes."""
    pieces = [by_head(piece, heads) for piece in given]
    return [head for piece in pieces for head in piece.split(1, dim=1)] if in_graph() else pieces


def narrow(
    query: Float[Tensor, "g h n d"],
    key: Float[Tensor, "g h m d"],
    bias: Float[Tensor, "_ n m"],
    unused: Bool[Tensor, "g m"] | None,
    weights: Float[Tensor, "g h n k"] | None,
    kept: Int[Tensor, "g h n k"] | None,
    *,
    num_keys: int,
) -> Focus:
    """softmax(query . key + bias) over the kept keys, times their weights, as shares of one: the largest of a row."""
    if in_graph():
        return _narrow(query, key, bias, unused, weights, kept, num_keys)
    assert unused is None
    parts = []
    with torch.autocast(query.device.type, enabled=False):
        for block in _blocks(query, key.shape[2], 2):
            earlier = (None if tensor is None else tensor[block] for tensor in (weights, kept))
            parts.append(recomputed(_narrow, query[block], key[block], bias, None, *earlier, num_keys))
    new_weights, new_kept = zip(*parts, strict=True)
    return torch.cat(new_weights), None if new_kept[0] is None else torch.cat(new_kept)


def aggregate(
    weights: Float[Tensor, "g h n k"], kept: Int[Tensor, "g h n k"] | None, values: Float[Tensor, "g h m c"]
) -> Float[Tensor, "g h n c"]:
    """The values of the kept keys, weighted."""
    if kept is None:
        return weights.to(values.dtype) @ values
    if in_graph():
        return _aggregate(weights, kept, values)
    parts = [
        recomputed(_aggregate, weights[block].to(values.dtype), kept[block], values[block])
        for block in _blocks(weights, values.shape[2], 1)
    ]
    return torch.cat(parts)


def _narrow(
    query: Tensor,
    key: Tensor,
    bias: Tensor,
    unused: Tensor | None,
    weights: Tensor | None,
    kept: Tensor | None,
    num_keys: int,
) -> Focus:
    if unused is not None or kept is None:
        scores = query @ key.transpose(2, 3) + bias
        scores = scores if unused is None else without(scores, unused)
        scores = scores if kept is None else scores.gather(3, kept)
    elif GATHERED * kept.shape[3] <= key.shape[2]:
        scores = torch.einsum("ghnd,ghnkd->ghnk", query, _gathered(key, kept))
        scores = scores + bias.expand(query.shape[1], -1, -1).expand(len(query), -1, -1, -1).gather(3, kept)
    else:
        scores = (query @ key.transpose(2, 3) + bias).gather(3, kept)
    shares = F.softmax(scores, dim=-1)
    if weights is not None:
        shares = shares * weights + EPS
        shares = shares / (shares.sum(-1, keepdim=True) + EPS)
    if num_keys >= shares.shape[3]:
        return shares, kept
    largest, places = shares.topk(num_keys, dim=-1, sorted=False)
    return largest, places if kept is None else kept.gather(3, places)


def _aggregate(weights: Tensor, kept: Tensor, values: Tensor) -> Tensor:
    if GATHERED * kept.shape[3] <= values.shape[2]:
        return torch.einsum("ghnk,ghnkc->ghnc", weights, _gathered(values, kept))
    dense = weights.new_zeros(*weights.shape[:3], values.shape[2])
    return dense.scatter_add(3, kept, weights) @ values


def _gathered(tokens: Float[Tensor, "g h m d"], kept: Int[Tensor, "g h n k"]) -> Float[Tensor, "g h n k d"]:
    """The tokens of the kept slots, by one selection from a flat list."""
    groups, heads, size, width = tokens.shape
    first = torch.arange(groups * heads, device=kept.device).view(groups, heads, 1, 1) * size
    return tokens.reshape(-1, width).index_select(0, (kept + first).flatten()).view(*kept.shape, width)


def _blocks(tokens: Tensor, keys: int, matrices: int) -> Iterator[slice]:
    """So many groups at a time as a few matrices of all their scores fit into `BLOCK_BYTES` of."""
    step = max(1, budget(BLOCK_BYTES) // (4 * matrices * tokens[0, ..., 0].numel() * keys))
    return (slice(start, start + step) for start in range(0, len(tokens), step))
