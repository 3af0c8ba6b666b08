"""Sort positions by group, cut them into chunks, let each chunk attend to itself and its two neighbours, restore.

The machinery that NLSA (groups by hashing), GLA (super-bit hashing) and LCoA (k-means clusters) share: they differ in
how a position gets its code. Linear in the positions. Knows nothing of where codes come from.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from nlsr.attention.affinity import Affinity, Keep, matching_dtype
from nlsr.attention.embedding import unit_keys
from nlsr.attention.streamed import budget, check_first_order, in_graph

BLOCK_BYTES = 4 * 2**20
"""Memory of the scores of one block of chunks on a processor; larger blocks were not faster."""
ACCELERATOR_BLOCK_BYTES = 64 * 2**20
"""The same on an accelerator, which small blocks keep waiting."""

LARGE_CHUNK = 128
"""Slots from which one product per chunk keeps the processor busy."""


@dataclass(frozen=True)
class Chunks:
    """Which position sits in which slot of the sorted sequence, in each image and round.

    `order[b, r, slot]` is the position in a slot; `slots[b, r, position]` the first slot of a position. The last chunk
    is filled by repeating the last sorted positions once more, in the same order, as published. A map of fewer than
    half a chunk becomes one chunk without repetitions.
    """

    order: Int[Tensor, "b r p"]
    slots: Int[Tensor, "b r l"]
    chunk_size: int
    unused: Bool[Tensor, " p"] | None = None
    """The slots that hold no position of their own and are no repetitions either; None if there are none."""

    @classmethod
    def sort(cls, codes: Int[Tensor, "b r l"], chunk_size: int) -> "Chunks":
        """Stable sort, so that equal codes stay in row-major order on every device."""
        if in_graph():
            return cls._sort_in_graph(codes, chunk_size)
        length = codes.shape[-1]
        order = codes.sort(dim=-1, stable=True).indices
        slots = torch.empty_like(order).scatter_(-1, order, torch.arange(length, device=codes.device).expand_as(order))
        if 2 * length < chunk_size:
            chunk_size = length
        padding = -length % chunk_size
        return cls(torch.cat((order, order[..., length - padding :]), dim=-1), slots, chunk_size)

    @classmethod
    def _sort_in_graph(cls, codes: Int[Tensor, "b r l"], chunk_size: int) -> "Chunks":
        """For a map of any size: one of fewer than half a chunk has unused slots instead of a smaller chunk."""
        order, slots, number = sorted_in_graph(codes)
        length = codes.shape[-1]
        padded = (length + chunk_size - 1) // chunk_size * chunk_size
        slot = torch.arange(padded, device=codes.device)
        filled = torch.where(slot < length, slot, (slot - (padded - length)).clamp_min(0))
        unused = (slot >= length) & (2 * number < chunk_size)
        return cls(order[..., filled], slots, chunk_size, unused)

    def gather(self, tokens: Float[Tensor, "b l c"]) -> Float[Tensor, "b r n m c"]:
        batch, rounds, padded = self.order.shape
        picked = _Gather.apply(tokens, self.order, self.slots)
        return picked.view(batch, rounds, padded // self.chunk_size, self.chunk_size, tokens.shape[-1])

    def restore(self, chunked: Float[Tensor, "b r n m c"]) -> Float[Tensor, "b r l c"]:
        return _Restore.apply(chunked.flatten(2, 3), self.order, self.slots)


class ChunkedAffinity(Affinity):
    """Softmax attention within neighbourhoods of three chunks, over one or several rounds of sorting.

    A position draws on the positions of its own chunk and of the two chunks beside it in sorted order; first and last
    chunk are neighbours. Rounds are weighted, per position, by the softmax of their log-sums. With n chunks of m slots
    the *stored* weights take rounds * n * m * 3m numbers per image; *recomputed* keeps queries and keys only and
    makes a block of weights at a time, in backward again. Values and gradients are equal.

    `codes` (b, r, l) and `embedding` (b, l, d) remain readable: clustering learns from them.
    """

    reach_is = "in its chunk of sorted positions or beside it"

    def __init__(
        self,
        codes: Int[Tensor, "b r l"],
        embedding: Float[Tensor, "b l d"],
        *,
        chunk_size: int,
        slot_scores: Float[Tensor, "b l s"] | None = None,
        keep: Keep = "stored",
        size: tuple[int, int] | None = None,
    ) -> None:
        """
        Args:
            codes: the group of each position, in each round.
            embedding: queries, whose norm is an inverse temperature; keys are the same vectors, normalised.
            chunk_size: positions per chunk.
            slot_scores: what a key position adds to the score of the query in slot s of a chunk (GLA's learned score);
                s = chunk_size.
            keep: what is held, see above.
            size: see `Affinity`.
        """
        super().__init__(embedding.shape[1], size=size)
        self.codes, self.embedding = codes, embedding
        self.rounds = codes.shape[1]
        self.chunks = Chunks.sort(codes, chunk_size)
        query = embedding.to(matching_dtype(embedding.dtype))
        query, key = self.chunks.gather(query), self.chunks.gather(unit_keys(embedding))
        if slot_scores is None:
            extra = query[..., :0]
        else:
            extra = self.chunks.gather(slot_scores[..., : self.chunks.chunk_size].to(query.dtype))
        self._stored: Tensor | None = None
        self._made_of: tuple[Tensor, Tensor, Tensor] | None = None
        log_sum: Tensor | None
        if in_graph():
            self._stored, log_sum = _weigh_in_graph(query, key, extra, self.chunks.unused)
        elif keep == "stored":
            self._stored, log_sum = _Weigh.apply(query, key, extra, embedding.dtype)
        else:
            self._made_of = query, key, extra
            log_sum = _Recomputed.apply(query, key, extra, query[..., :0])[1] if self.rounds > 1 else None
        if self.rounds > 1:
            assert log_sum is not None
            self._round_weights = F.softmax(self.chunks.restore(log_sum[..., None]), dim=1)

    def aggregate(self, values: Float[Tensor, "b keys c"]) -> Float[Tensor, "b queries c"]:
        chunked = self.chunks.gather(values)
        if in_graph():
            assert self._stored is not None
            drawn = self._stored.to(values.dtype) @ _windows_in_graph(chunked)
        elif self._stored is not None:
            drawn = _Stored.apply(self._stored, chunked)
        else:
            assert self._made_of is not None
            drawn, _ = _Recomputed.apply(*self._made_of, chunked)
        restored = self.chunks.restore(drawn)
        if self.rounds == 1:
            return restored[:, 0]
        return (restored * self._round_weights.to(restored.dtype)).sum(1)

    def rows(self, queries: Int[Tensor, " q"]) -> Float[Tensor, "b q keys"]:
        queries = queries.to(self.codes.device)
        slots = self.chunks.slots[..., queries]  # b r q
        columns = self._neighbourhood(slots)  # b r q k
        weights = self._rows_in_sorted_order(slots, columns)
        if self.rounds > 1:
            weights = weights * self._round_weights[:, :, queries].to(weights.dtype)
        keys = self.chunks.order[:, :, None].expand(-1, -1, slots.shape[-1], -1).gather(3, columns)
        rows = weights.new_zeros(len(self.codes), len(queries), self.num_keys)
        # A position that sits in two slots of a neighbourhood counts twice, as in aggregate.
        return rows.scatter_add(2, keys.transpose(1, 2).flatten(2), weights.transpose(1, 2).flatten(2))

    def reach(self, queries: Int[Tensor, " q"]) -> Bool[Tensor, " keys"]:
        columns = self._neighbourhood(self.chunks.slots[..., queries.to(self.codes.device)])
        return self.marked(self.chunks.order.gather(2, columns.flatten(2)))

    def groups(self) -> Int[Tensor, "b r keys"]:
        return self.codes

    def _neighbourhood(self, slots: Int[Tensor, "*b q"]) -> Int[Tensor, "*b q k"]:
        """The slots of the chunks of these slots and of those beside them."""
        size, padded = self.chunks.chunk_size, self.chunks.order.shape[-1]
        first = (slots // size - 1) * size
        return (first[..., None] + torch.arange(3 * size, device=slots.device)) % padded

    def _rows_in_sorted_order(self, slots: Int[Tensor, "b r q"], columns: Int[Tensor, "b r q k"]) -> Tensor:
        batch = torch.arange(slots.shape[0], device=slots.device)[:, None, None]
        round = torch.arange(slots.shape[1], device=slots.device)[:, None]
        if self._stored is not None:
            return self._stored.flatten(1, 2).unflatten(0, slots.shape[:2])[batch, round, slots]
        assert self._made_of is not None
        query, key, extra = (tokens.flatten(2, 3) for tokens in self._made_of)
        around = batch[..., None], round[..., None], columns
        scores = torch.einsum("brqd,brqkd->brqk", query[batch, round, slots], key[around])
        if extra.shape[-1]:
            own_slot = (slots % self.chunks.chunk_size)[..., None, None].expand(*columns.shape, 1)
            scores = scores + extra[around].gather(-1, own_slot)[..., 0]
        return F.softmax(scores, dim=-1).to(self.embedding.dtype)


def chunked_floats(width: int, channels: int, *, rounds: int, chunk_size: int) -> int:
    """`Operator.floats_per_position` where the affinity is one of chunks, of embeddings of some width; measured."""
    return (1 + 2 * rounds) * width + rounds * (3 * chunk_size + 8 + channels)


def chunks_in_graph(width: int, *, rounds: int, chunk_size: int) -> int:
    """`Operator.floats_in_graph` for chunks: scores, scores without those of unused slots, and keys of three chunks;
    measured."""
    return rounds * (6 * chunk_size + 3 * width)


def sorted_in_graph(codes: Int[Tensor, "*b l"]) -> tuple[Int[Tensor, "*b l"], Int[Tensor, "*b l"], Int[Tensor, "1"]]:
    """The position in each slot of the sorted sequence, the slot of each position, and the number of positions.

    The keys that are sorted are unique, as no engine promises a stable sort. The number is a tensor, for engines that
    divide by no symbol.
    """
    positions = torch.arange(codes.shape[-1], device=codes.device)
    number = torch.full((1,), codes.shape[-1], device=codes.device)
    order = (codes * number + positions).sort(dim=-1).values % number
    slots = torch.zeros_like(order).scatter(-1, order, positions.expand_as(order))
    return order, slots, number


def pick(tokens: Tensor, index: Tensor) -> Tensor:
    """tokens (b, l, c) at index (b, k); a flat index_select is ten times as fast as gather over expanded indices."""
    batch, length, _ = tokens.shape
    offsets = torch.arange(batch, device=index.device)[:, None] * length
    picked = tokens.flatten(0, 1).index_select(0, (index + offsets).flatten())
    return picked.view(batch, index.shape[1], tokens.shape[2])


class _Gather(torch.autograd.Function):
    """tokens (b l c) -> (b r p c) in the order of slots. Every position has one slot in a round, and the last slots
    repeat the positions of those before them, so that the gradient is a gather too."""

    @staticmethod
    def forward(ctx, tokens: Tensor, order: Tensor, slots: Tensor):  # type: ignore[no-untyped-def,override]
        ctx.slots = slots
        return pick(tokens, order.flatten(1)).unflatten(1, order.shape[1:])

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def,override]
        check_first_order()
        length = ctx.slots.shape[2]
        if repeated := grad.shape[2] - length:
            grad = grad.clone()
            grad[:, :, length - repeated : length] += grad[:, :, length:]
        picked = pick(grad.flatten(0, 1), ctx.slots.flatten(0, 1)).unflatten(0, ctx.slots.shape[:2])
        return picked.sum(1) if picked.shape[1] > 1 else picked[:, 0], None, None


class _Restore(torch.autograd.Function):
    """sorted (b r p c) -> (b r l c) in the order of positions; the gradient of slots that repeat is zero."""

    @staticmethod
    def forward(ctx, chunked: Tensor, order: Tensor, slots: Tensor):  # type: ignore[no-untyped-def,override]
        ctx.order, ctx.length = order, slots.shape[2]
        return pick(chunked.flatten(0, 1), slots.flatten(0, 1)).unflatten(0, slots.shape[:2])

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def,override]
        check_first_order()
        picked = pick(grad.flatten(0, 1), ctx.order.flatten(0, 1)).unflatten(0, ctx.order.shape[:2])
        picked[:, :, ctx.length :] = 0
        return picked, None, None


# Below, g = images times rounds, n chunks of m slots, and a window is a chunk with its two neighbours. Windows are
# overlapping views of a sequence that repeats its last chunk in front and its first behind, so nothing is copied
# three times; automatic differentiation would copy, hence the hand-written backwards. A block is part of the chunks of
# one of the g, or all chunks of several: the second copies its windows, and small maps are worth no call each.


def _windows(chunked: Tensor) -> Tensor:
    """(g, n, m, c) -> (g, n, 3m, c), a view of one extended copy."""
    size = chunked.shape[2]
    extended = torch.cat((chunked[:, -1:], chunked, chunked[:, :1]), dim=1).flatten(1, 2)
    return extended.unfold(1, 3 * size, size).transpose(2, 3)


def _windows_in_graph(chunked: Tensor) -> Tensor:
    """(b, r, n, m, c) -> (b, r, n, 3m, c), with copies: engines have no overlapping views."""
    around = torch.cat((chunked[:, :, -1:], chunked, chunked[:, :, :1]), dim=2)
    return torch.cat((around[:, :, :-2], chunked, around[:, :, 2:]), dim=3)


def _weigh_in_graph(query: Tensor, key: Tensor, extra: Tensor, unused: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `_Weigh`, in plain steps: weights (b r n m 3m) and log-sums (b r n m)."""
    scores = query @ _windows_in_graph(key).transpose(3, 4)
    if extra.shape[-1]:
        scores = scores + _windows_in_graph(extra).transpose(3, 4)
    if unused is not None:
        apart = _windows_in_graph(unused.view(1, 1, -1, query.shape[3], 1)).transpose(3, 4)
        scores = scores.masked_fill(apart, -torch.inf)
    return F.softmax(scores, dim=-1), torch.logsumexp(scores, dim=-1)


def _fold(windows: Tensor) -> Tensor:
    """The adjoint of `_windows`: (g, n, 3m, c) -> (g, n, m, c)."""
    before, own, after = windows.chunk(3, dim=2)
    return own + before.roll(-1, 1) + after.roll(1, 1)


def _blocks(query: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
    """For queries (g, n, m, d): functions that take a block out of a tensor (g, n, i, j), as (chunks, i, j)."""
    number, n, m, _ = query.shape
    largest = BLOCK_BYTES if query.device.type == "cpu" else ACCELERATOR_BLOCK_BYTES
    fitting = max(1, budget(largest) // (3 * m * m * query.element_size()))
    for first in range(0, number, max(1, fitting // n)):
        some = slice(first, first + max(1, fitting // n))
        for start in range(0, n, fitting):
            yield lambda tensor, some=some, start=start: tensor[some, start : start + fitting].flatten(0, 1)


def _product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """Batched matrix product (n, i, j) @ (n, j, k)."""
    elsewhere = left.device.type != "cpu" or left.dtype != torch.float32
    if elsewhere or left.shape[1] < LARGE_CHUNK or not right.shape[2]:  # no convolution makes nothing
        return torch.bmm(left, right) if out is None else torch.bmm(left, right, out=out)
    # torch multiplies float32 matrices by MKL, which takes its slow path on other processors than Intel's; a 1x1
    # convolution goes to oneDNN, which does not: 302 against 117 GFLOP/s on two Zen 5 cores at 384 slots.
    out = left.new_empty(*left.shape[:2], right.shape[2]) if out is None else out
    for a, b, target in zip(left, right, out, strict=True):
        target.copy_(F.conv1d(b[None], a[:, :, None])[0])
    return out


def _full_precision(tensor: Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)


class _Weigh(torch.autograd.Function):
    """query, key (b r n m d), extra (b r n m m or 0) -> softmax weights (g n m 3m) of a dtype, log-sums (b r n m)."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, extra: Tensor, dtype: torch.dtype):  # type: ignore[no-untyped-def,override]
        q, k, e = (t.flatten(0, 1) for t in (query, key, extra))
        keys, extras = _windows(k), _windows(e)
        weights = q.new_empty((*q.shape[:3], 3 * q.shape[2]), dtype=dtype)
        several = query.shape[1] > 1
        log_sum = q.new_empty((*q.shape[:3], 1) if several else (0,))
        with _full_precision(query):
            for block in _blocks(q):
                scores = _scores(block(q), block(keys), block(extras))
                if several:
                    torch.logsumexp(scores, -1, keepdim=True, out=block(log_sum))
                block(weights).copy_(F.softmax(scores, -1))
        ctx.save_for_backward(query, key, weights)
        ctx.extra_shape = extra.shape
        return weights, log_sum.view(query.shape[:-1]) if several else log_sum

    @staticmethod
    def backward(ctx, grad_weights: Tensor, grad_log_sum: Tensor):  # type: ignore[no-untyped-def,override]
        check_first_order()
        query, key, weights = ctx.saved_tensors
        q, k = (tokens.flatten(0, 1).to(weights.dtype) for tokens in (query, key))
        windows = _windows(k)
        grad_query, grad_windows = torch.empty_like(q), windows.new_empty(windows.shape)
        grad_extras = windows.new_empty(*windows.shape[:3], ctx.extra_shape[-1])
        for block in _blocks(q):
            grad_scores = _softmax_backward(block(weights), block(grad_weights))
            if query.shape[1] > 1:
                grad_scores += block(weights) * block(grad_log_sum.flatten(0, 1)[..., None]).to(weights.dtype)
            torch.bmm(grad_scores, block(windows), out=block(grad_query))
            torch.bmm(grad_scores.transpose(1, 2), block(q), out=block(grad_windows))
            block(grad_extras).copy_(grad_scores.transpose(1, 2)[..., : grad_extras.shape[-1]])
        grad_query, grad_key, grad_extra = (
            grad.to(query.dtype) for grad in (grad_query, _fold(grad_windows), _fold(grad_extras))
        )
        return grad_query.view_as(query), grad_key.view_as(key), grad_extra.view(ctx.extra_shape), None


class _Stored(torch.autograd.Function):
    """weights (g n m 3m), values (b r n m c) -> drawn (b r n m c)."""

    @staticmethod
    def forward(ctx, weights: Tensor, values: Tensor):  # type: ignore[no-untyped-def,override]
        ctx.save_for_backward(weights, values)
        v = values.flatten(0, 1)
        windows, drawn = _windows(v), torch.empty_like(v)
        with _full_precision(values):
            for block in _blocks(weights):
                _product(block(weights).to(v.dtype), block(windows), out=block(drawn))
        return drawn.view_as(values)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def,override]
        check_first_order()
        weights, values = ctx.saved_tensors
        v, grad = values.flatten(0, 1), grad.flatten(0, 1).contiguous()
        windows = _windows(v)
        grad_weights = torch.empty_like(weights) if ctx.needs_input_grad[0] else None
        grad_windows = windows.new_empty(windows.shape)
        for block in _blocks(weights):
            if grad_weights is not None:
                torch.bmm(block(grad), block(windows).transpose(1, 2), out=block(grad_weights))
            torch.bmm(block(weights).to(v.dtype).transpose(1, 2), block(grad), out=block(grad_windows))
        return grad_weights, _fold(grad_windows).view_as(values)


class _Recomputed(torch.autograd.Function):
    """query, key, extra (as above), values (b r n m c) -> drawn (b r n m c), log-sums (b r n m), block by block."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, extra: Tensor, values: Tensor):  # type: ignore[no-untyped-def,override]
        ctx.save_for_backward(query, key, extra, values)
        q, k, e, v = (t.flatten(0, 1) for t in (query, key, extra, values))
        keys, extras, windows = _windows(k), _windows(e), _windows(v)
        drawn, log_sum = torch.empty_like(v), q.new_empty((*q.shape[:3], 1))
        with _full_precision(query):
            for block in _blocks(q):
                scores = _scores(block(q), block(keys), block(extras))
                torch.logsumexp(scores, -1, keepdim=True, out=block(log_sum))
                _product(F.softmax(scores, -1).to(v.dtype), block(windows), out=block(drawn))
        return drawn.view_as(values), log_sum.view(query.shape[:-1])

    @staticmethod
    def backward(ctx, grad: Tensor, grad_log_sum: Tensor):  # type: ignore[no-untyped-def,override]
        check_first_order()
        inputs = ctx.saved_tensors
        q, k, e, v, out, total = (t.flatten(0, 1) for t in (*inputs, grad, grad_log_sum[..., None]))
        keys, extras, windows = _windows(k), _windows(e), _windows(v)
        grad_q = torch.empty_like(q)
        grad_keys, grad_extras, grad_windows = (t.new_empty(t.shape) for t in (keys, extras, windows))
        for block in _blocks(q):
            weights = F.softmax(_scores(block(q), block(keys), block(extras)), -1)
            grad_weights = torch.bmm(block(out), block(windows).transpose(1, 2))
            grad_scores = _softmax_backward(weights, grad_weights.to(q.dtype)) + weights * block(total)
            torch.bmm(grad_scores, block(keys), out=block(grad_q))
            torch.bmm(grad_scores.transpose(1, 2), block(q), out=block(grad_keys))
            block(grad_extras).copy_(grad_scores.transpose(1, 2)[..., : e.shape[-1]])
            torch.bmm(weights.to(v.dtype).transpose(1, 2), block(out), out=block(grad_windows))
        folded = (grad_q, *(_fold(grads) for grads in (grad_keys, grad_extras, grad_windows)))
        return tuple(grads.view_as(given) for grads, given in zip(folded, inputs, strict=True))


def _scores(query: Tensor, keys: Tensor, extras: Tensor) -> Tensor:
    """query (n m d), keys (n 3m d), extras (n 3m m or 0) -> (n m 3m)."""
    scores = _product(query, keys.transpose(1, 2))
    return scores.add_(extras.transpose(1, 2)) if extras.shape[-1] else scores


def _softmax_backward(weights: Tensor, grad: Tensor) -> Tensor:
    return torch._softmax_backward_data(grad, weights, -1, weights.dtype)  # one pass; there is no public name for it
