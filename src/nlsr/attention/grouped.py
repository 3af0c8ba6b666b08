"""Softmax attention within groups of positions, with heads: what windows, overlapping windows and sorted chunks share.

A layout says which positions sit in the slots of which groups; the affinity weighs the keys of a group for its queries,
and gives each position its share of what its slots receive. Linear in the positions. Knows nothing of how groups are
chosen.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.attention.affinity import Affinity, Keep, matching_dtype
from nlsr.attention.heads import check_heads
from nlsr.attention.streamed import BLOCK_BYTES, budget, check_first_order, in_graph, is_uncut, recomputed

LANES = 16
"""Heads are filled with zeros up to a multiple of so many entries. The fused kernel needs queries and values of one
width, and on two Zen 5 cores it takes at 16 entries half the time that it takes at 10."""


@dataclass(frozen=True)
class Places:
    """Which positions sit in the slots of a piece, in each image; the first axis is 1 where all images are alike."""

    queries: Int[Tensor, "b g n"]
    """-1 for a slot whose result nobody receives."""
    keys: Int[Tensor, "b g m"]
    shares: Float[Tensor, "b g n"] | None = None
    """What part of a slot's result its position gets; None for all of it."""


class Layout(ABC):
    """How the positions of a map are put into groups.

    Groups of equal size form a piece; a piece is one tensor of all images, images first, then groups.
    """

    height: int
    width: int
    reach_is: str
    """See `Affinity`."""

    @abstractmethod
    def queries(self, tokens: Float[Tensor, "b l c"]) -> list[Float[Tensor, "_ _ c"]]:
        """What sits in the query slots of each piece."""

    def keys(self, tokens: Float[Tensor, "b l c"]) -> list[Float[Tensor, "_ _ c"]]:
        """What sits in the key slots of each piece; by default what sits in those of its queries."""
        return self.queries(tokens)

    @abstractmethod
    def restore(self, pieces: list[Float[Tensor, "_ _ c"]]) -> Float[Tensor, "b l c"]:
        """What each position receives of what its query slots hold."""

    def unused(self) -> list[Bool[Tensor, "_ m"]] | None:
        """The key slots of each piece that hold nothing, alike in all images; None where all hold something."""
        return None

    @abstractmethod
    def places(self) -> list[Places]:
        """The same in numbers."""

    def groups(self) -> Int[Tensor, "b r l"] | None:
        """See `Affinity.groups`."""
        return None


class EveryKey(Layout):
    """One group of all positions, with keys that lie elsewhere: on no map, and few."""

    reach_is = "all"

    def __init__(self, height: int, width: int, num_keys: int) -> None:
        self.height, self.width, self.num_keys = height, width, num_keys

    def queries(self, tokens: Float[Tensor, "b l c"]) -> list[Float[Tensor, "_ _ c"]]:
        return [tokens]

    def restore(self, pieces: list[Float[Tensor, "_ _ c"]]) -> Float[Tensor, "b l c"]:
        return pieces[0]

    def places(self) -> list[Places]:
        return [Places(torch.arange(self.height * self.width)[None, None], torch.arange(self.num_keys)[None, None])]


class GroupAffinity(Affinity):
    """Each position draws on the keys of its groups by softmax(query . key + bias), head by head.

    *stored* keeps the weights, heads times the keys of a group for every slot; *recomputed* keeps queries and keys, and
    a fused kernel makes the weights whenever they are used, in backward again. Values and gradients are equal.
    Rows are those of all heads, folded into the batch: row b * heads + h belongs to head h of image b.
    """

    def __init__(
        self,
        layout: Layout,
        query: Float[Tensor, "b l d"],
        key: Float[Tensor, "b k d"],
        *,
        heads: int = 1,
        biases: Sequence[Float[Tensor, "_ _ _"] | None] = (None,),
        keep: Keep = "stored",
    ) -> None:
        """
        Args:
            query, key: of all heads side by side; queries are scaled already.
            biases: of each piece, of each head or of all: what is added to its scores.
        """
        check_heads(query.shape[2], heads)
        super().__init__(query.shape[1], key.shape[1], size=(layout.height, layout.width))
        self.layout, self.heads = layout, heads
        matching = matching_dtype(query.dtype)
        queries, keys = (fill_heads(tokens.to(matching), heads) for tokens in (query, key))
        unused: Sequence[Tensor | None] = layout.unused() or [None] * len(biases)
        self._made_of: list[tuple[Tensor, Tensor, Tensor | None, Tensor | None]] = [
            (
                by_head(piece, heads),
                by_head(other, heads),
                None if bias is None else bias.to(matching),
                None if empty is None else of_each_image(empty, query.shape[0]),
            )
            for piece, other, bias, empty in zip(
                layout.queries(queries), layout.keys(keys), biases, unused, strict=True
            )
        ]
        self._stored: list[Tensor] | None = None
        if keep == "stored":
            self._stored = [weigh(*piece).to(query.dtype) for piece in self._made_of]
            self._made_of = []

    def aggregate(self, values: Float[Tensor, "b keys c"]) -> Float[Tensor, "b queries c"]:
        """Raises: ShapeError if the heads cannot share the channels equally."""
        check_heads(values.shape[2], self.heads)
        if self._stored is not None:
            pieces = (by_head(piece, self.heads) for piece in self.layout.keys(values))
            drawn = [weights.to(piece.dtype) @ piece for weights, piece in zip(self._stored, pieces, strict=True)]
            return self.layout.restore([side_by_side(piece) for piece in drawn])
        filled = fill_heads(values.to(self._made_of[0][0].dtype), self.heads)
        pieces = (by_head(piece, self.heads) for piece in self.layout.keys(filled))
        drawn = [attend(*made_of, piece) for made_of, piece in zip(self._made_of, pieces, strict=True)]
        restored = self.layout.restore([side_by_side(piece) for piece in drawn])
        return empty_heads(restored, self.heads, values.shape[2]).to(values.dtype)

    def rows(self, queries: Int[Tensor, " q"]) -> Float[Tensor, "bh q keys"]:
        rows: Tensor | None = None
        for index, places in enumerate(self.layout.places()):
            weights, image, query, keys = self._hits(index, places, queries.to(places.queries.device))
            if rows is None:
                shape = (self._batch(index, places), len(queries), self.heads, self.num_keys)
                rows = weights.new_zeros(shape).flatten()
            head = torch.arange(self.heads, device=weights.device)[:, None]
            first = ((image * len(queries) + query)[:, None, None] * self.heads + head) * self.num_keys
            # A position that sits in two key slots counts twice, as in aggregate.
            rows = rows.scatter_add(0, (first + keys).flatten(), weights.flatten())
        assert rows is not None
        return rearrange(rows.view(shape), "b q h keys -> (b h) q keys")

    @property
    def reach_is(self) -> str:  # type: ignore[override]
        return self.layout.reach_is

    def reach(self, queries: Int[Tensor, " q"]) -> Bool[Tensor, " keys"]:
        pieces = self.layout.places()
        sitting = (torch.isin(piece.queries, queries.to(piece.queries.device)).any(-1) for piece in pieces)
        return self.marked(*(piece.keys[groups] for piece, groups in zip(pieces, sitting, strict=True)))

    def groups(self) -> Int[Tensor, "b r keys"] | None:
        return self.layout.groups()

    def _batch(self, index: int, places: Places) -> int:
        piece = self._made_of[index][0] if self._stored is None else self._stored[index]
        return len(piece) // places.queries.shape[1]

    def _hits(
        self, index: int, places: Places, queries: Int[Tensor, " q"]
    ) -> tuple[Float[Tensor, "k h m"], Int[Tensor, " k"], Int[Tensor, " k"], Int[Tensor, "k _ m2"]]:
        """The weights of all slots of a piece that hold one of these queries, with its image, number and keys."""
        batch, num_groups = self._batch(index, places), places.queries.shape[1]
        sitting = places.queries.expand(batch, -1, -1)
        image, group, slot, query = (sitting[..., None] == queries).nonzero().unbind(1)
        which = image * num_groups + group
        if self._stored is not None:
            weights = self._stored[index][which, :, slot]
        else:
            made_of, key, bias, _ = self._made_of[index]
            with torch.autocast(key.device.type, enabled=False):
                scores = torch.einsum("khd,khmd->khm", made_of[which, :, slot], key[which])
            weights = F.softmax(scores if bias is None else scores + bias[:, slot].transpose(0, 1), dim=-1)
        if places.shares is not None:
            shares = places.shares.expand(batch, -1, -1)[image, group, slot]
            weights = weights * shares.to(weights.dtype)[:, None, None]
        keys = places.keys.expand(batch, -1, -1)[image, group]
        return weights, image, query, self._drawn_on(index, keys, which, slot)

    def _drawn_on(
        self, index: int, keys: Int[Tensor, "k m"], which: Int[Tensor, " k"], slot: Int[Tensor, " k"]
    ) -> Int[Tensor, "k _ m2"]:
        """The positions that weights of slots belong to, of each head or of all, given those of their groups."""
        return keys[:, None]


def attend(
    query: Float[Tensor, "g h n d"],
    key: Float[Tensor, "g h m d"],
    bias: Float[Tensor, "_ n m"] | None,
    unused: Bool[Tensor, "g m"] | None,
    values: Float[Tensor, "g h m c"],
) -> Float[Tensor, "g h n c"]:
    """softmax(query . key + bias) values, without the weights where a kernel can do without them."""
    if in_graph():
        return _weigh(query, key, bias, unused) @ values
    assert unused is None
    inputs = (query, key, values) if bias is None else (query, key, values, bias)
    with torch.autocast(query.device.type, enabled=False):
        if bias is not None and bias.requires_grad and torch.is_grad_enabled():  # no fused kernel differentiates it
            parts = [
                recomputed(_attend, query[block], key[block], bias, values[block]) for block in _blocks(query, key)
            ]
            return torch.cat(parts)
        if is_uncut():  # operations are counted, and fused ones are not
            return _attend(query, key, bias, values)
        width = max(query.shape[3], values.shape[3])
        query, key, filled = (_widened(tokens, width) for tokens in (query, key, values))
        mask = None if bias is None else bias[None]
        drawn = F.scaled_dot_product_attention(query, key, filled, attn_mask=mask, scale=1.0)[..., : values.shape[3]]
        return _FirstOrder.apply(drawn) if any(tensor.requires_grad for tensor in inputs) else drawn


def weigh(
    query: Float[Tensor, "g h n d"],
    key: Float[Tensor, "g h m d"],
    bias: Float[Tensor, "_ n m"] | None,
    unused: Bool[Tensor, "g m"] | None,
) -> Float[Tensor, "g h n m"]:
    """softmax(query . key + bias)."""
    if in_graph():
        return _weigh(query, key, bias, unused)
    assert unused is None
    with torch.autocast(query.device.type, enabled=False):
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (query, key, bias)):
            return _weigh(query, key, bias)
        weights = query.new_empty(*query.shape[:3], key.shape[2])
        for block in _blocks(query, key):  # scores that stay in the caches of a processor, and never exist as a whole
            weights[block] = _weigh(query[block], key[block], bias)
        return weights


def grouped_floats(width: int, channels: int, heads: int, *, keys: int) -> int:
    """`Operator.floats_per_position` where the affinity is one of groups: weights, and tokens slot by slot."""
    filled = heads * LANES * (-(-width // (heads * LANES)) * 4 + -(-channels // (heads * LANES)) * 2)
    return heads * keys + filled


def weights_in_graph(heads: int, *, keys: int) -> int:
    """`Operator.floats_in_graph` for groups: scores, scores without those of unused slots, and weights."""
    return 3 * heads * keys


def fill_heads(tokens: Float[Tensor, "b l c"], heads: int) -> Float[Tensor, "b l d"]:
    """Zeros after the entries of each head, up to a multiple of `LANES`."""
    width = tokens.shape[2] // heads
    missing = 0 if is_uncut() or in_graph() else -width % LANES
    return F.pad(tokens.unflatten(2, (heads, width)), (0, missing)).flatten(2) if missing else tokens


def empty_heads(tokens: Float[Tensor, "b l d"], heads: int, channels: int) -> Float[Tensor, "b l c"]:
    """The inverse of `fill_heads`."""
    return tokens.unflatten(2, (heads, -1))[..., : channels // heads].flatten(2)


def of_each_image(unused: Bool[Tensor, "g m"], batch: int) -> Bool[Tensor, "bg m"]:
    """Images first, then groups, as pieces are."""
    return unused.repeat(batch, 1)


def by_head(piece: Float[Tensor, "g n c"], heads: int) -> Float[Tensor, "g h n d"]:
    return piece.unflatten(2, (heads, -1)).transpose(1, 2)


def side_by_side(piece: Float[Tensor, "g h n d"]) -> Float[Tensor, "g n c"]:
    return piece.transpose(1, 2).flatten(2)


def joint_linear(tokens: Float[Tensor, "b l c"], *layers: nn.Linear) -> tuple[Tensor, ...]:
    """What each of several layers without bias makes of the tokens, by one product."""
    made = F.linear(tokens, torch.cat([layer.weight for layer in layers]))
    return made.split([layer.out_features for layer in layers], dim=-1)


def _widened(tokens: Float[Tensor, "g h n d"], width: int) -> Float[Tensor, "g h n w"]:
    """Zeros up to a width; `F.pad` copies where none are missing."""
    missing = width - tokens.shape[3]
    return F.pad(tokens, (0, missing)) if missing else tokens


def _attend(query: Tensor, key: Tensor, bias: Tensor | None, values: Tensor) -> Tensor:
    return _weigh(query, key, bias) @ values


def _weigh(query: Tensor, key: Tensor, bias: Tensor | None, unused: Tensor | None = None) -> Tensor:
    scores = query @ key.transpose(2, 3)
    scores = scores if bias is None else scores + bias
    return F.softmax(scores if unused is None else without(scores, unused), dim=-1)


def without(scores: Float[Tensor, "g h n m"], unused: Bool[Tensor, "g m"]) -> Float[Tensor, "g h n m"]:
    """Scores that give unused slots no weight."""
    return scores.masked_fill(unused[:, None, None], -torch.inf)


def _blocks(query: Tensor, key: Tensor) -> Iterator[slice]:
    """So many groups at a time as `BLOCK_BYTES` hold the scores of."""
    step = max(1, budget(BLOCK_BYTES) // (query.element_size() * query[0, ..., 0].numel() * key.shape[2]))
    return (slice(start, start + step) for start in range(0, len(query), step))


class _FirstOrder(torch.autograd.Function):
    """What it is given; refuses gradients of gradients, which fused kernels do not have."""

    @staticmethod
    def forward(ctx: Any, drawn: Tensor) -> Tensor:  # type: ignore[override]
        return drawn.view_as(drawn)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        check_first_order()
        return grad
