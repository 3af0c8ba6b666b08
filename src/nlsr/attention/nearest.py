"""Nearest: every position draws on the few positions of the whole map that are most like it.

They are found as PatchMatch finds them: neighbours in a picture have neighbouring matches, so each position tries the
shifted keys of its four neighbours; and what is like my keys is like me, so it tries the keys of its keys. Near-exact
nearest neighbours in time and memory linear in the positions.

Sources: PatchMatch (Barnes et al., SIGGRAPH 2009); as an attention: PSAL (arXiv 2202.03163); keys of keys: NN-descent
(Dong et al., WWW 2011).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.attention.affinity import Affinity, Draws, Keep, map_size, matching_dtype, to_tokens
from nlsr.attention.dense import embedding_width
from nlsr.attention.embedding import EmbeddingOperator, unit_keys
from nlsr.attention.few_keys import FewKeys, dots, sort_rows
from nlsr.attention.streamed import recomputed
from nlsr.errors import ShapeError

SWEEPS = 4
"""Rounds of propagation. In a trained embedding of twelve pictures of 27,000 positions, one to four of them find 0.49,
0.72, 0.85 and 0.90 of the exact 16 nearest."""
START_ORDERS = 2
"""Sorted orders that give the first keys; every sweep adds one, so that nothing stays where it began."""
BESIDE = 4
"""Candidates before and after a position in a sorted order."""
KEYS_ASKED = 8
"""The best keys of a position, whose own keys are tried."""
DIRECTIONS = 12
"""Directions of a sorted order: positions that agree in the signs along many directions are near each other in it."""
OUTER = 0.67
"""Standard deviations beyond which half of the positions lie along a direction."""
EXACT = 256
"""Positions up to which all pairs are compared."""
BLOCK = 2048
"""Positions whose candidates exist at a time; larger blocks were 8 % faster and took more memory."""
STEP = 2.0**30
"""Likenesses differ if they differ by 1 / STEP; of equals the first position in row-major order is taken."""
LOW = 2**32 - 1
"""The half of a packed number that holds a position; the other half holds the unlikeness."""
LAST = 2**63 - 1


class NearestAffinity(Affinity):
    """softmax_j(query_i . key_j) over the few keys j that were found for i.

    *Stored* holds the weights, a number per key; *recomputed* makes them again when asked, and in backward. Values and
    gradients are equal. `index` (b, l, k) says which keys, the most like first; `embedding` is (b, l, d).
    """

    reach_is = "among its nearest"

    def __init__(
        self,
        index: Int[Tensor, "b l k"],
        embedding: Float[Tensor, "b l d"],
        *,
        keep: Keep = "stored",
        size: tuple[int, int] | None = None,
    ) -> None:
        """
        Args:
            index: int32, no position twice in a row.
            embedding: queries, whose norm is an inverse temperature; keys are the same vectors, normalised.
            keep: what is held, see above.
            size: see `Affinity`.
        """
        super().__init__(embedding.shape[1], size=size)
        self.index, self.embedding = index, embedding
        self._keys = FewKeys(index, self.num_keys)
        self._dtype = embedding.dtype
        self._made_of = embedding.to(matching_dtype(embedding.dtype)), unit_keys(embedding)
        self._stored = _weights(self._keys, *self._made_of).to(self._dtype) if keep == "stored" else None

    def aggregate(self, values: Float[Tensor, "b keys c"]) -> Float[Tensor, "b queries c"]:
        if self._stored is not None:
            return self._keys.aggregate(self._stored, values)
        return recomputed(_attend, self._keys, *self._made_of, values)

    def rows(self, queries: Int[Tensor, " q"]) -> Float[Tensor, "b q keys"]:
        queries = queries.to(self.index.device)
        index = self.index[:, queries]
        query, key = self._made_of
        weights = _weights(FewKeys(index, self.num_keys), query[:, queries], key).to(self._dtype)
        rows = weights.new_zeros(len(index), len(queries), self.num_keys)
        return rows.scatter(2, index.to(torch.int64), weights)

    def reach(self, queries: Int[Tensor, " q"]) -> Bool[Tensor, " keys"]:
        return self.marked(self.index[:, queries.to(self.index.device)])


class Nearest(EmbeddingOperator):
    """Match each position with the positions whose embedding has the largest cosine to its own.

    A 3x3 convolution embeds the features, as in LCoA. A position is among its own keys.
    """

    network_settings = ("reduction",)
    no_graph = "multiplies sparse matrices (torch.sparse.sampled_addmm), which no engine has"

    def __init__(self, channels: int, *, reduction: int = 4, num_nearest: int = 16, sweeps: int = SWEEPS) -> None:
        """
        Args:
            channels: of the features.
            reduction: the embedding has channels / reduction entries; must divide.
            num_nearest: keys of each position; all of a map that has fewer.
            sweeps: rounds of propagation.
        Raises: ShapeError if the reduction does not divide, or a position would have no key.
        """
        super().__init__()
        if num_nearest < 1 or sweeps < 1:
            raise ShapeError(f"expected at least 1 key and 1 sweep, got num_nearest {num_nearest}, sweeps {sweeps}")
        self.embed = nn.Conv2d(channels, embedding_width(channels, reduction), 3, padding=1)
        self.num_nearest, self.sweeps = num_nearest, sweeps

    def match(
        self, features: Float[Tensor, "b c h w"], *, draws: Draws | None = None, keep: Keep = "stored"
    ) -> NearestAffinity:
        """Draws nothing."""
        embedding = to_tokens(self.embed(features))
        height, width = map_size(features)
        index = nearest(unit_keys(embedding.detach()), self.num_nearest, width=width, sweeps=self.sweeps)
        return NearestAffinity(index, embedding, keep=keep, size=(height, width))

    def floats_per_position(self, channels: int) -> int:
        return 3 * self.embed.out_channels + 22 * self.num_nearest + 64  # measured at 128x128


def _attend(keys: FewKeys, query: Tensor, key: Tensor, values: Tensor) -> Tensor:
    return keys.aggregate(_weights(keys, query, key).to(values.dtype), values)


def _weights(keys: FewKeys, query: Tensor, key: Tensor) -> Float[Tensor, "b q k"]:
    with torch.autocast(query.device.type, enabled=False):
        return F.softmax(keys.scores(query, key), dim=-1)


@torch.no_grad()
def nearest(keys: Float[Tensor, "b l d"], count: int, *, width: int, sweeps: int = SWEEPS) -> Int[Tensor, "b l k"]:
    """The `count` positions with the largest dot products with each, the largest first, in int32.

    Near-exact for pictures; exact for maps of at most `EXACT` or 4 * count positions.

    Args:
        keys: unit vectors, in row-major order of a map.
        count: of the positions to find; all if the map has fewer.
        width: of the map.
        sweeps: rounds of propagation.
    """
    if torch.compiler.is_compiling():
        # Not as a decorator: that imports the compiler, which takes a second, whenever this file is imported.
        return torch.compiler.disable(_nearest_of_each)(keys, count, width, sweeps)
    return _nearest_of_each(keys, count, width, sweeps)


def _nearest_of_each(keys: Float[Tensor, "b l d"], count: int, width: int, sweeps: int) -> Int[Tensor, "b l k"]:
    with torch.autocast(keys.device.type, enabled=False):
        return torch.stack([_nearest(image.contiguous(), min(count, len(image)), width, sweeps) for image in keys])


def _nearest(keys: Float[Tensor, "l d"], count: int, width: int, sweeps: int) -> Int[Tensor, "l k"]:
    length = len(keys)
    if length <= max(EXACT, 4 * count):
        everyone = torch.arange(length, dtype=torch.int32, device=keys.device).expand(length, -1)
        return _positions(_best(_packed(keys, keys, everyone), count))
    orders = _sorted_orders(keys, START_ORDERS + sweeps)
    first, *others = [_BesideInOrder(order, BESIDE) for order in orders]
    first = _BesideInOrder(orders[0], -(-count // 2))  # alone enough for `count` different keys
    found = torch.empty(length, count, dtype=torch.int64, device=keys.device)
    blocks = [slice(start, min(length, start + BLOCK)) for start in range(0, length, BLOCK)]
    for block in blocks:
        candidates = torch.cat([beside.of(block) for beside in (first, *others[: START_ORDERS - 1])], dim=1)
        found[block] = _best(_packed(keys[block], keys, candidates), count)
    for sweep, beside in enumerate(others[START_ORDERS - 1 :]):
        index, latest = _positions(found), torch.empty_like(found)
        steps = (1, -1) if sweep % 2 else (width, -width)
        asked = index[:, 1 + sweep % 2 :: 2].contiguous()
        for block in blocks:
            new = [_shifted(index, block, step) for step in steps]
            candidates = torch.cat((*new, _of_keys(index, block, asked), beside.of(block)), dim=1)
            latest[block] = _best(torch.cat((found[block], _packed(keys[block], keys, candidates)), 1), count)
        found = latest
    return _positions(found)


def _sorted_orders(keys: Float[Tensor, "l d"], count: int) -> list[Int[Tensor, " l"]]:
    """Orders of the positions in which similar ones are near each other, each along directions of its own.

    A position's place is decided by the signs of its coordinates along fixed random directions, then by which of them
    are large: a space-filling curve.
    """
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(count, keys.shape[1], DIRECTIONS, generator=generator).to(keys)
    return [_sorted_along(keys, some) for some in directions]


def _sorted_along(keys: Float[Tensor, "l d"], directions: Float[Tensor, "d n"]) -> Int[Tensor, " l"]:
    along = keys @ directions
    along -= along.mean(0)
    deviation = along.square().mean(0).sqrt()
    powers = 2.0 ** torch.arange(DIRECTIONS, device=keys.device, dtype=keys.dtype)
    signs, sizes = along > 0, along.abs() > OUTER * deviation
    codes = signs.to(keys.dtype) @ (powers * 2**DIRECTIONS) + sizes.to(keys.dtype) @ powers
    packed = codes.to(torch.int64) * 2**32 + torch.arange(len(keys), device=keys.device)
    return _positions(sort_rows(packed[None]))[0]


class _BesideInOrder:
    """The positions before and after each one in an order whose ends meet, itself included."""

    def __init__(self, order: Int[Tensor, " l"], reach: int) -> None:
        self.around = torch.cat((order[-reach:], order, order[:reach])).unfold(0, 2 * reach + 1, 1)
        slots = torch.arange(len(order), device=order.device)
        self.slots = torch.empty_like(slots).scatter_(0, order.to(torch.int64), slots)

    def of(self, block: slice) -> Int[Tensor, "n m"]:
        return self.around[self.slots[block]]


def _shifted(index: Int[Tensor, "l k"], block: slice, step: int) -> Int[Tensor, "n m"]:
    """The better half of the keys of the position a step away, shifted back.

    Positions are shifted in row-major order: beyond the end of a row lies the next one, a candidate as good as any.
    """
    length, count = index.shape
    positions = torch.arange(block.start + step, block.stop + step, device=index.device).clamp_(0, length - 1)
    return (index[positions, 1 : 1 + max(1, count // 2)] - step).clamp_(0, length - 1)


def _of_keys(index: Int[Tensor, "l k"], block: slice, table: Int[Tensor, "l h"]) -> Int[Tensor, "n m"]:
    """What a table holds of the best keys; the first key is mostly the position itself."""
    asked = index[block, 1 : 1 + KEYS_ASKED]
    return table.index_select(0, asked.flatten()).view(len(asked), -1)


def _packed(query: Float[Tensor, "n d"], keys: Float[Tensor, "l d"], candidates: Tensor) -> Int[Tensor, "n m"]:
    """Candidates as numbers that rise with unlikeness, of equals with the position."""
    unlikeness = (dots(query, keys, candidates) * -STEP).to(torch.int64)
    return unlikeness.bitwise_left_shift_(32).bitwise_or_(candidates)


def _positions(packed: Int[Tensor, "n m"]) -> Int[Tensor, "n m"]:
    return (packed & LOW).to(torch.int32)


def _best(packed: Int[Tensor, "n m"], count: int) -> Int[Tensor, "n k"]:
    """The `count` smallest numbers of each row, each once; there must be so many."""
    ranked = sort_rows(packed)
    ranked[:, 1:].masked_fill_(ranked[:, 1:] == ranked[:, :-1], LAST)
    return sort_rows(ranked)[:, :count]
