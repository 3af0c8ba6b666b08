"""Attention on key sets against literal versions, values and gradients, and the modules that are made of it."""

import pytest
import torch
from tests.tolerances import assert_close
from torch import nn

from nlsr.attention import SharedAttention
from nlsr.attention import streamed as streamed_module
from nlsr.attention.leverage import (
    HeadsAffinity,
    KeySet,
    KeySetAffinity,
    Leverage,
    MultiHeadLeverage,
    PowerAffinity,
    leverage_scores,
    threshold,
    top_r,
)
from nlsr.attention.leverage import affinities as module
from nlsr.attention.leverage.operator import spread_positions
from nlsr.errors import ShapeError

BATCH, QUERIES, KEYS, WIDTH = 3, 9, 12, 4
POWERS = [1, 1.5, 2, 3, 4, 6]
KEEPS = ["stored", "recomputed"]


def tokens(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def inputs(dtype=torch.float64):
    sizes = [(BATCH, QUERIES, WIDTH), (BATCH, KEYS, WIDTH), (BATCH, KEYS, 5)]
    return [tokens(*size, seed=i, dtype=dtype) for i, size in enumerate(sizes)]


def sets(kind, key):
    """Key sets of equal sizes, or of sizes 3, 0 and 12."""
    if kind == "equal":
        return top_r(leverage_scores(key), 5)
    scores = torch.zeros(BATCH, KEYS)
    scores[0, [2, 3, 11]] = 1
    scores[2] = 1
    return threshold(scores, 0.5)


def members(key_set, image):
    indices = key_set.indices[image]
    return indices if key_set.present is None else indices[key_set.present[image]]


def plain_softmax(query, key, key_set, scale):
    """Query by query over its image's own set."""
    rows = []
    for b in range(len(query)):
        chosen = members(key_set, b)
        weights = torch.zeros(query.shape[1], key.shape[1], dtype=query.dtype)
        rows.append(
            weights.index_put((slice_rows(query), chosen[None]), (scale * query[b] @ key[b, chosen].T).softmax(-1))
        )
    return torch.stack(rows)


def slice_rows(query):
    return torch.arange(query.shape[1])[:, None]


def plain_power(query, key, key_set, p, denominator):
    rows = []
    for b in range(len(query)):
        powers, chosen = (query[b] @ key[b].T).abs() ** p, members(key_set, b)
        counted = powers if denominator == "exact" else powers[:, chosen]
        entries = powers[:, chosen] / counted.sum(-1, keepdim=True)
        rows.append(torch.zeros_like(powers).index_put((slice_rows(query), chosen[None]), entries))
    return torch.stack(rows)


def compare_values_and_gradients(ours, plain, factor=1.0):
    """`ours` gives an affinity, `plain` a matrix, of the same query and key."""
    results = []
    for function in (ours, plain):
        query, key, values = (tensor.requires_grad_() for tensor in inputs())
        made = function(query, key)
        drawn = made @ values if isinstance(made, torch.Tensor) else made.aggregate(values)
        dense = made if isinstance(made, torch.Tensor) else made.dense()
        results.append((dense, drawn, *torch.autograd.grad(drawn.pow(3).sum(), (query, key, values))))
    for actual, expected in zip(*results, strict=True):
        assert_close(actual, expected, factor=factor)


@pytest.mark.parametrize("block_bytes", [16 * 2**20, 200])
@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("kind", ["equal", "ragged"])
def test_softmax_on_a_set_equals_softmax_over_its_keys_alone(kind, keep, block_bytes, monkeypatch):
    monkeypatch.setattr(streamed_module, "BLOCK_BYTES", block_bytes)
    compare_values_and_gradients(
        lambda query, key: KeySetAffinity(query, key, sets(kind, key), scale=0.7, keep=keep),
        lambda query, key: plain_softmax(query, key, sets(kind, key), 0.7),
    )


@pytest.mark.parametrize("denominator", ["exact", "restricted"])
@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("p", POWERS)
def test_power_attention_equals_its_definition(p, keep, denominator):
    compare_values_and_gradients(
        lambda query, key: PowerAffinity(query, key, sets("equal", key), p=p, denominator=denominator, keep=keep),
        lambda query, key: plain_power(query, key, sets("equal", key), p, denominator),
        factor=100,
    )


def test_power_attention_takes_sets_of_unequal_sizes():
    query, key, _ = inputs()
    key_set = sets("ragged", key)
    for p in (1, 2, 3):
        assert_close(PowerAffinity(query, key, key_set, p=p).dense(), plain_power(query, key, key_set, p, "exact"))
        restricted = PowerAffinity(query, key, key_set, p=p, denominator="restricted").dense()
        assert_close(restricted[[0, 2]], plain_power(query, key, key_set, p, "restricted")[[0, 2]])
        assert (restricted[1] == 0).all()


@pytest.mark.parametrize("p", [2, 4])
def test_the_two_ways_to_an_exact_denominator_agree(p, monkeypatch):
    query, key = tokens(2, 7, 3), tokens(2, 50, 3, seed=1)
    by_gram = PowerAffinity(query, key, top_r(leverage_scores(key), 5), p=p).dense()
    monkeypatch.setattr(module, "lifted_width", lambda width, power: 10**6)
    assert_close(by_gram, PowerAffinity(query, key, top_r(leverage_scores(key), 5), p=p).dense())


@pytest.mark.parametrize("denominator", ["exact", "restricted"])
@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("kind", ["exactly", "but for rounding"])
def test_a_query_orthogonal_to_all_keys_receives_nothing(kind, p, denominator):
    key = torch.cat((tokens(1, 40, 3), torch.zeros(1, 40, 1, dtype=torch.float64)), dim=2)
    query = torch.tensor([[[0.0, 0, 0, 1], [0, 0, 0, 0], [1, 2, 3, 4]]], dtype=torch.float64)
    if kind == "but for rounding":
        turn = torch.linalg.qr(tokens(4, 4)).Q
        query, key = query @ turn, key @ turn
    query.requires_grad_()
    affinity = PowerAffinity(query, key, top_r(leverage_scores(key), 8), p=p, denominator=denominator)
    drawn = affinity.aggregate(tokens(1, 40, 2))
    assert (drawn[0, :2] == 0).all()
    assert (drawn[0, 2] != 0).all()
    drawn.sum().backward()
    assert query.grad.isfinite().all()


def test_powers_of_long_queries_and_keys_do_not_overflow():
    query, key = tokens(1, 5, 4, dtype=torch.float32), tokens(1, 30, 4, dtype=torch.float32)
    key_set = top_r(leverage_scores(key), 6)
    plain = PowerAffinity(query, key, key_set, p=8).dense()
    assert_close(PowerAffinity(1e15 * query, 1e-12 * key, key_set, p=8).dense(), plain)


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("make", ["softmax", "power"])
def test_bfloat16_stays_close_to_double_precision(make, keep):
    query, key, values = inputs(torch.bfloat16)
    for dtype in (torch.bfloat16, torch.float64):
        q, k, v = (tensor.to(dtype) for tensor in (query, key, values))
        key_set = top_r(leverage_scores(k), 5)
        affinity = (
            KeySetAffinity(q, k, key_set, scale=0.5, keep=keep)
            if make == "softmax"
            else PowerAffinity(q, k, key_set, p=2, keep=keep)
        )
        drawn = affinity.aggregate(v)
        assert drawn.dtype == dtype
        if dtype == torch.bfloat16:
            low, low_rows = drawn, affinity.dense()
            assert low_rows.dtype == torch.float32
    assert_close(low, drawn)
    torch.testing.assert_close(low_rows.double(), affinity.dense(), rtol=1e-4, atol=1e-5)


def test_recomputed_attention_never_holds_all_weights(monkeypatch):
    largest = []
    monkeypatch.setattr(streamed_module, "BLOCK_BYTES", 4000)
    original = KeySetAffinity._weights

    def watched(self, query, *on_set):
        weights = original(self, query, *on_set)
        largest.append(weights.numel() * weights.element_size())
        return weights

    monkeypatch.setattr(KeySetAffinity, "_weights", watched)
    query, key = tokens(2, 400, 4).requires_grad_(), tokens(2, 400, 4, seed=1)
    affinity = KeySetAffinity(query, key, top_r(leverage_scores(key), 10), scale=0.5)
    affinity.aggregate(key).sum().backward()
    assert max(largest) <= 4000
    assert sum(largest) == 2 * 2 * 400 * 10 * 8


SIZES = [(1, 1), (1, 7), (5, 7), (9, 11)]


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_with_as_many_keys_as_positions_the_block_is_full_attention(size, batch, heads):
    operator = Leverage(8, num_keys=size[0] * size[1], heads=heads)
    block = SharedAttention(8, operator, residual_scale=0.3).double()
    features = tokens(batch, 8, *size)
    query, key, values = (
        layer(features).flatten(2).unflatten(1, (heads, -1)).mT
        for layer in (operator.query, operator.key, block.values)
    )
    drawn = nn.functional.scaled_dot_product_attention(query, key, values)
    expected = features + 0.3 * drawn.mT.flatten(1, 2).unflatten(2, size)
    for keep in KEEPS:
        assert_close(block(features, keep=keep)[0], expected)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("keep", KEEPS)
def test_each_image_and_head_draws_on_its_own_set(keep, heads):
    operator = Leverage(8, num_keys=6, heads=heads).double()
    features = tokens(3, 8, 5, 7)
    affinity = operator.match(features, keep=keep)
    keys = operator.key(features).flatten(2).mT
    for b in range(3):
        for h in range(heads):
            chosen = top_r(leverage_scores(keys[b, :, 4 // heads * h : 4 // heads * (h + 1)]), 6).indices
            drawn_on = (affinity.dense()[b * heads + h] > 0).any(0).nonzero().flatten()
            assert torch.equal(drawn_on, chosen)


@pytest.mark.parametrize("heads", [1, 2])
def test_an_image_alone_and_in_a_batch_draws_on_the_same_positions(heads):
    operator = Leverage(8, num_keys=6, heads=heads, regular_share=0.5)
    batch = tokens(3, 8, 13, 6, dtype=torch.float32)
    together = operator.match(batch).dense().unflatten(0, (3, heads))
    for i in range(3):
        alone = operator.match(batch[i : i + 1]).dense()
        assert torch.equal(alone > 0, together[i] > 0)
        assert_close(alone, together[i])


def test_a_regular_share_brings_in_positions_that_do_not_depend_on_the_keys():
    operator = Leverage(8, num_keys=8, regular_share=0.5)
    regular = set(spread_positions(9, 10, 4).tolist())
    assert len(regular) == 4
    sets = []
    for seed in range(2):
        rows = operator.match(tokens(1, 8, 9, 10, seed=seed, dtype=torch.float32)).dense()[0]
        sets.append(set((rows > 0).any(0).nonzero().flatten().tolist()))
    assert sets[0] != sets[1]
    assert all(len(chosen) == 8 and regular <= chosen for chosen in sets)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (64, 64), (7, 90)])
def test_spread_positions_lie_on_the_map_in_every_part_of_it(size):
    positions = spread_positions(*size, 64)
    assert positions.min() >= 0
    assert positions.max() < size[0] * size[1]
    parts = {(int(p) // size[1] * 4 // size[0], int(p) % size[1] * 4 // size[1]) for p in positions}
    assert len(parts) == min(4, size[0]) * min(4, size[1])


def test_an_affinity_is_shared_with_gradients_and_without():
    results = []
    for keep in KEEPS:
        torch.manual_seed(0)
        first = SharedAttention(8, Leverage(8, num_keys=6, heads=2)).double()
        second = SharedAttention(8).double()
        features = tokens(2, 8, 9, 7).requires_grad_()
        output, affinity = first(features, keep=keep)
        output, _ = second(output, affinity)
        output.square().sum().backward()
        parts = (first.operator.query, first.operator.key, second.values)
        results.append((output, features.grad, *(part.weight.grad for part in parts)))
    for stored, recomputed in zip(*results, strict=True):
        assert_close(stored, recomputed)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="heads that divide 4 channels, got 3"):
        Leverage(8, heads=3)
    with pytest.raises(ShapeError, match="num_keys >= 1"):
        Leverage(8, num_keys=0)
    with pytest.raises(ShapeError, match=r"regular_share 1\.5"):
        Leverage(8, regular_share=1.5)
    affinity = Leverage(8, heads=2).match(tokens(1, 8, 3, 3, dtype=torch.float32))
    with pytest.raises(ShapeError, match="heads that divide 5 channels, got 2"):
        affinity.aggregate(tokens(1, 9, 5, dtype=torch.float32))
    with pytest.raises(ShapeError, match="heads that divide 10 channels, got 4"):
        MultiHeadLeverage(10, heads=4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("num_keys", [None, 17])
def test_multi_head_attention_on_all_keys_equals_that_of_torch(num_keys, bias):
    theirs = nn.MultiheadAttention(12, 3, bias=bias, batch_first=True, dtype=torch.float64).eval()
    ours = MultiHeadLeverage.from_torch(theirs, num_keys=num_keys)
    input = tokens(2, 17, 12)
    assert_close(ours(input), theirs(input, input, input, need_weights=False)[0])


def test_multi_head_attention_draws_on_the_best_keys_of_each_head():
    theirs = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    ours, input = MultiHeadLeverage.from_torch(theirs, num_keys=5), tokens(2, 17, 12)
    query, key, values = ours.qkv(input).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    outside = torch.ones(2, 3, 17, dtype=torch.bool).scatter(-1, top_r(leverage_scores(key), 5).indices, False)
    scores = (query @ key.mT / 2).masked_fill(outside[:, :, None], -torch.inf)
    drawn = (scores.softmax(-1) @ values).transpose(1, 2).flatten(2)
    assert_close(ours(input), ours.proj(drawn))
    affinity = ours.match(*ours.qkv(input).chunk(3, dim=-1)[:2])
    assert isinstance(affinity, HeadsAffinity)
    assert_close(affinity.dense().unflatten(0, (2, 3)), scores.softmax(-1))


def test_weights_of_a_vision_transformer_fit_by_name():
    shapes = {name: tuple(tensor.shape) for name, tensor in MultiHeadLeverage(12, heads=3).state_dict().items()}
    assert shapes == {"qkv.weight": (36, 12), "qkv.bias": (36,), "proj.weight": (12, 12), "proj.bias": (12,)}
    assert "qkv.bias" not in MultiHeadLeverage(12, heads=3, bias=False).state_dict()


def test_keys_can_be_chosen_by_other_scores():
    last = MultiHeadLeverage(8, heads=2, num_keys=3, scores=lambda key: torch.arange(10.0).expand(key.shape[:2]))
    input = tokens(1, 10, 8, dtype=torch.float32)
    changed = input.clone()
    changed[:, :7] = 0
    assert_close(last(input)[:, 7:], last(changed)[:, 7:])
    assert not torch.allclose(last(input)[:, :7], last(changed)[:, :7])


@pytest.mark.parametrize("options", [{"kdim": 5}, {"add_bias_kv": True}, {"add_zero_attn": True}])
def test_attention_to_other_keys_is_not_converted(options):
    with pytest.raises(ShapeError, match="for self-attention"):
        MultiHeadLeverage.from_torch(nn.MultiheadAttention(12, 3, **options))


def test_an_empty_set_gives_nothing():
    query, key, values = inputs()
    nobody = KeySet(torch.zeros(BATCH, 0, dtype=torch.int64))
    assert (KeySetAffinity(query, key, nobody, scale=1.0).aggregate(values) == 0).all()
