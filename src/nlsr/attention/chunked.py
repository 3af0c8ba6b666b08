"""Sort positions by group, cut them into chunks, let each chunk attend to itself and its two neighbours, restore.

The machinery that NLSA (groups by hashing), GLA (super-bit hashing) and LCoA (k-means clusters) share: they differ in
how a position gets its code. Linear in the positions. Knows nothing of where codes come from.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from nlsr.attention.affinity import Affinity, Keep, matching_dtype
from nlsr.attention.streamed import budget, check_first_order, in_graph

KEY_NORM_FLOOR = 5e-5
"""Published lower bound of a key's norm when it is normalised."""
BLOCK_BYTES = 4 * 2**20
"""Memory of the scores of one block of chunks; larger blocks were not faster."""

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
        """The same for a map of any size: the keys that are sorted are unique, as no engine promises a stable sort, and
        a map of fewer than half a chunk has unused slots instead of a smaller chunk."""
        length = codes.shape[-1]
        positions = torch.arange(length, device=codes.device)
        number = positions[-1:] + 1  # the length as a tensor, for engines that divide by no symbol
        order = (codes * number + positions).sort(dim=-1).values % number
        slots = torch.zeros_like(order).scatter(-1, order, positions.expand_as(order))
        padded = (length + chunk_size - 1) // chunk_size * chunk_size
        slot = torch.arange(padded, device=codes.device)
        filled = torch.where(slot < length, slot, (slot - (padded - length)).clamp_min(0))
        unused = (slot >= length) & (2 * number < chunk_size)
        return cls(order[..., filled], slots, chunk_size, unused)

    def gather(self, tokens: Float[Tensor, "b l c"]) -> Float[Tensor, "b r n m c"]:
        batch, rounds, padded = self.order.shape
        picked = pick(tokens, self.order.flatten(1))
        return picked.view(batch, rounds, padded // self.chunk_size, self.chunk_size, tokens.shape[-1])

    def restore(self, chunked: Float[Tensor, "b r n m c"]) -> Float[Tensor, "b r l c"]:
        batch, rounds, length = self.slots.shape
        offsets = torch.arange(rounds, device=self.slots.device).view(1, -1, 1) * self.order.shape[-1]
        picked = pick(chunked.flatten(1, 3), (self.slots + offsets).flatten(1))
        return picked.view(batch, rounds, length, chunked.shape[-1])


class ChunkedAffinity(Affinity):
    """Softmax attention within neighbourhoods of three chunks, over one or several rounds of sorting.

    A position draws on the positions of its own chunk and of the two chunks beside it in sorted order; first and last
    chunk are neighbours. Rounds are weighted, per position, by the softmax of their log-sums. With n chunks of m slots
    the *stored* weights take rounds * n * m * 3m numbers per image; *recomputed* keeps queries and keys only and
    makes a block of weights at a time, in backward again. Values and gradients are equal.

    `codes` (b, r, l) and `embedding` (b, l, d) remain readable: clustering learns from them.
    """

    reach_is = "in its window of sorted positions"

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
        reached = torch.zeros(self.num_keys, dtype=torch.bool)
        reached[self.chunks.order.gather(2, columns.flatten(2)).flatten().cpu()] = True
        return reached

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


def unit_keys(embedding: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
    """The keys of an embedding, in matching precision."""
    embedding = embedding.to(matching_dtype(embedding.dtype))
    return embedding / embedding.norm(dim=-1, keepdim=True).clamp_min(KEY_NORM_FLOOR)


def pick(tokens: Tensor, index: Tensor) -> Tensor:
    """tokens (b, l, c) at index (b, k); a flat index_select is ten times as fast as gather over expanded indices."""
    batch, length, _ = tokens.shape
    offsets = torch.arange(batch, device=index.device)[:, None] * length
    picked = tokens.flatten(0, 1).index_select(0, (index + offsets).flatten())
    return picked.view(batch, -1, tokens.shape[2])


# Below, g = images times rounds, n chunks of m slots, and a window is a chunk with its two neighbours. Windows are
# overlapping views of a sequence that repeats its last chunk in front and its first behind, so nothing is copied
# three times; automatic differentiation would copy, hence the hand-written backwards.


def _windows(chunked: Tensor) -> Tensor:
    """(n, m, c) -> (n, 3m, c), a view of one extended copy."""
    size = chunked.shape[1]
    extended = torch.cat((chunked[-1:], chunked, chunked[:1])).flatten(0, 1)
    return extended.unfold(0, 3 * size, size).transpose(1, 2)


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
    """The adjoint of `_windows`: (n, 3m, c) -> (n, m, c)."""
    before, own, after = windows.chunk(3, dim=1)
    return own + before.roll(-1, 0) + after.roll(1, 0)


def _blocks(num_chunks: int, size: int, element_size: int) -> list[slice]:
    step = max(1, budget(BLOCK_BYTES) // (3 * size * size * element_size))
    return [slice(start, start + step) for start in range(0, num_chunks, step)]


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
        batch, rounds, n, m, _ = query.shape
        weights = query.new_empty((batch * rounds, n, m, 3 * m), dtype=dtype)
        log_sum = query.new_empty((batch * rounds, n, m) if rounds > 1 else (0,))
        with _full_precision(query):
            for g, (q, k, e) in enumerate(zip(*(t.flatten(0, 1) for t in (query, key, extra)), strict=True)):
                keys, extras = _windows(k), _windows(e)
                for block in _blocks(n, m, q.element_size()):
                    scores = _scores(q[block], keys[block], extras[block])
                    if rounds > 1:
                        torch.logsumexp(scores, -1, out=log_sum[g, block])
                    weights[g, block] = F.softmax(scores, -1)
        ctx.save_for_backward(query, key, weights)
        ctx.extra_shape = extra.shape
        return weights, log_sum.view(batch, rounds, n, m) if rounds > 1 else log_sum

    @staticmethod
    def backward(ctx, grad_weights: Tensor, grad_log_sum: Tensor):  # type: ignore[no-untyped-def,override]
        check_first_order()
        query, key, weights = ctx.saved_tensors
        rounds, n, m = query.shape[1:4]
        grad_query, grad_key, grad_extra = (
            torch.empty_like(query),
            torch.empty_like(key),
            key.new_empty(ctx.extra_shape),
        )
        for g, (q, k) in enumerate(zip(query.flatten(0, 1), key.flatten(0, 1), strict=True)):
            windows = _windows(k)
            grad_windows = windows.new_empty(windows.shape)
            grad_extras = windows.new_empty(n, 3 * m, ctx.extra_shape[-1])
            for block in _blocks(n, m, q.element_size()):
                weight = weights[g, block].to(q.dtype)
                grad_scores = _softmax_backward(weight, grad_weights[g, block].to(q.dtype))
                if rounds > 1:
                    grad_scores += weight * grad_log_sum.flatten(0, 1)[g, block, :, None]
                torch.bmm(grad_scores, windows[block], out=grad_query.flatten(0, 1)[g, block])
                torch.bmm(grad_scores.transpose(1, 2), q[block], out=grad_windows[block])
                grad_extras[block] = grad_scores.transpose(1, 2)[..., : grad_extras.shape[-1]]
            grad_key.flatten(0, 1)[g] = _fold(grad_windows)
            grad_extra.flatten(0, 1)[g] = _fold(grad_extras)
        return grad_query, grad_key, grad_extra, None


class _Stored(torch.autograd.Function):
    """weights (g n m 3m), values (b r n m c) -> drawn (b r n m c)."""

    @staticmethod
    def forward(ctx, weights: Tensor, values: Tensor):  # type: ignore[no-untyped-def,override]
        ctx.save_for_backward(weights, values)
        drawn = torch.empty_like(values)
        with _full_precision(values):
            for w, v, out in zip(weights, values.flatten(0, 1), drawn.flatten(0, 1), strict=True):
                _product(w.to(v.dtype), _windows(v), out=out)
        return drawn

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def,override]
        check_first_order()
        weights, values = ctx.saved_tensors
        grad = grad.contiguous()
        grad_weights = torch.empty_like(weights) if ctx.needs_input_grad[0] else None
        grad_values = torch.empty_like(values)
        for g, (w, v, out) in enumerate(zip(weights, values.flatten(0, 1), grad.flatten(0, 1), strict=True)):
            if grad_weights is not None:
                grad_weights[g] = torch.bmm(out, _windows(v).transpose(1, 2))
            grad_values.flatten(0, 1)[g] = _fold(torch.bmm(w.to(v.dtype).transpose(1, 2), out))
        return grad_weights, grad_values


class _Recomputed(torch.autograd.Function):
    """query, key, extra (as above), values (b r n m c) -> drawn (b r n m c), log-sums (b r n m), block by block."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, extra: Tensor, values: Tensor):  # type: ignore[no-untyped-def,override]
        ctx.save_for_backward(query, key, extra, values)
        n, m = query.shape[2:4]
        drawn, log_sum = torch.empty_like(values), query.new_empty(query.shape[:-1])
        with _full_precision(query):
            groups = zip(*(t.flatten(0, 1) for t in (query, key, extra, values, drawn, log_sum)), strict=True)
            for q, k, e, v, out, total in groups:
                keys, extras, windows = _windows(k), _windows(e), _windows(v)
                for block in _blocks(n, m, q.element_size()):
                    scores = _scores(q[block], keys[block], extras[block])
                    torch.logsumexp(scores, -1, out=total[block])
                    _product(F.softmax(scores, -1).to(v.dtype), windows[block], out=out[block])
        return drawn, log_sum

    @staticmethod
    def backward(ctx, grad: Tensor, grad_log_sum: Tensor):  # type: ignore[no-untyped-def,override]
        check_first_order()
        inputs = ctx.saved_tensors
        n, m = inputs[0].shape[2:4]
        grads = tuple(torch.empty_like(t) for t in inputs)
        groups = zip(*(t.flatten(0, 1) for t in (*inputs, *grads, grad, grad_log_sum)), strict=True)
        for q, k, e, v, grad_q, grad_k, grad_e, grad_v, out, total in groups:
            keys, extras, windows = _windows(k), _windows(e), _windows(v)
            grad_keys, grad_extras, grad_windows = (t.new_empty(t.shape) for t in (keys, extras, windows))
            for block in _blocks(n, m, q.element_size()):
                weights = F.softmax(_scores(q[block], keys[block], extras[block]), -1)
                grad_weights = torch.bmm(out[block], windows[block].transpose(1, 2))
                grad_scores = _softmax_backward(weights, grad_weights.to(q.dtype)) + weights * total[block, :, None]
                torch.bmm(grad_scores, keys[block], out=grad_q[block])
                torch.bmm(grad_scores.transpose(1, 2), q[block], out=grad_keys[block])
                grad_extras[block] = grad_scores.transpose(1, 2)[..., : extras.shape[-1]]
                torch.bmm(weights.to(v.dtype).transpose(1, 2), out[block], out=grad_windows[block])
            grad_k.copy_(_fold(grad_keys))
            grad_e.copy_(_fold(grad_extras))
            grad_v.copy_(_fold(grad_windows))
        return grads


def _scores(query: Tensor, keys: Tensor, extras: Tensor) -> Tensor:
    """query (n m d), keys (n 3m d), extras (n 3m m or 0) -> (n m 3m)."""
    scores = _product(query, keys.transpose(1, 2))
    return scores.add_(extras.transpose(1, 2)) if extras.shape[-1] else scores


def _softmax_backward(weights: Tensor, grad: Tensor) -> Tensor:
    return weights * (grad - (weights * grad).sum(-1, keepdim=True))
