"""Leverage scores, lifted scores, Lewis weights: against their definitions and the sensitivities that they bound."""

import math

import numpy as np
import pytest
import torch
from tests.tolerances import assert_close

from nlsr.attention.leverage import leverage_scores, lewis_weights, lifted_scores, sensitivity_bounds, threshold, top_r
from nlsr.attention.leverage.gram import GramSum, lift
from nlsr.errors import NlsrError, ShapeError


def keys(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def plain_scores(key):
    """The definition, by numpy's pseudo-inverse."""
    rows = key.double().numpy()
    return torch.from_numpy(np.einsum("ia,ab,ib->i", rows, np.linalg.pinv(rows.T @ rows), rows))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 7), (40, 6), (5000, 3)])
def test_leverage_scores_equal_their_definition(shape, dtype):
    key = keys(*shape, dtype=dtype)
    scores = leverage_scores(key)
    assert scores.dtype == torch.float64
    assert_close(scores, plain_scores(key))
    assert scores.sum().item() == pytest.approx(min(shape))


def test_keys_of_lower_rank_have_scores_that_sum_to_it():
    key = keys(30, 3) @ keys(3, 8, seed=1)
    key[4], key[5] = 0, key[6]
    scores = leverage_scores(key)
    assert_close(scores, plain_scores(key), factor=10)
    assert scores.sum().item() == pytest.approx(3)
    assert scores[4] == 0
    assert scores[5].item() == pytest.approx(scores[6].item(), rel=1e-12)


def test_a_key_outside_the_span_of_the_others_has_score_one():
    key = torch.cat((keys(20, 3), torch.zeros(20, 1, dtype=torch.float64)), dim=1)
    key[7, 3] = 0.1
    assert leverage_scores(key)[7].item() == pytest.approx(1)


def test_scores_do_not_depend_on_the_basis_but_do_on_an_added_constant():
    key = keys(25, 4)
    assert_close(leverage_scores(key @ keys(4, 4, seed=3)), leverage_scores(key), factor=10)
    assert not torch.allclose(leverage_scores(key + 1), leverage_scores(key), atol=1e-3)


def test_a_ridge_makes_scores_smaller():
    key = keys(25, 4)
    expected = (key @ torch.linalg.inv(key.T @ key + 0.5 * torch.eye(4)) * key).sum(-1)
    assert_close(leverage_scores(key, ridge=0.5), expected)
    assert (leverage_scores(key, ridge=0.5) < leverage_scores(key)).all()


def test_each_item_of_a_batch_has_the_scores_it_has_alone():
    key = keys(2, 3, 33, 5, dtype=torch.float32)
    key[1, 2, :, 2] = 0
    for function in (leverage_scores, lambda k: lewis_weights(k, 3), lambda k: lifted_scores(k, 4)):
        together = function(key)
        for i in range(2):
            for j in range(3):
                assert_close(together[i, j], function(key[i, j]))


def test_bfloat16_around_changes_no_score():
    key = keys(50, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = leverage_scores(key)
    assert torch.equal(inside, leverage_scores(key))


def test_sums_have_the_same_bits_whatever_the_chunks():
    rows = keys(20_000, 3, dtype=torch.float32)
    whole = GramSum()
    whole.add(rows)
    assert_close(whole.total(), rows.double().T @ rows.double())
    for size in (1111, 4096, 7000):
        parts = GramSum()
        for chunk in rows.split(size):
            parts.add(chunk)
        assert parts.num_rows == 20_000
        assert torch.equal(parts.total(), whole.total())


@pytest.mark.parametrize("power", [1, 2, 3])
def test_products_of_lifted_rows_are_powers_of_products(power):
    left, right = keys(6, 4), keys(5, 4, seed=1)
    assert_close(lift(left, power) @ lift(right, power).T, (left @ right.T) ** power)


@pytest.mark.parametrize("p", [2, 4, 6])
def test_lifted_scores_equal_leverage_scores_of_kronecker_powers(p):
    key = keys(60, 3)
    powers = key
    for _ in range(p // 2 - 1):
        powers = torch.einsum("na,nb->nab", powers, key).flatten(1)
    assert_close(lifted_scores(key, p), plain_scores(powers), factor=100)
    assert lifted_scores(key, p).sum().item() == pytest.approx(math.comb(3 + p // 2 - 1, p // 2))


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, 4, 6, 10])
def test_lewis_weights_are_the_leverage_scores_of_the_keys_they_weight(p):
    key = keys(36, 4)
    key[3] = 0
    key[5] = 50 * key[5]
    weights = lewis_weights(key, p)
    scale = torch.where(weights > 0, weights, 1) ** (0.5 - 1 / p)
    torch.testing.assert_close(leverage_scores(scale[:, None] * key), weights, rtol=1e-11, atol=1e-13)
    assert weights.sum().item() == pytest.approx(4)
    assert weights[3] == 0


@pytest.mark.parametrize(("decades", "ranks"), [(1, {4}), (2, {4}), (2.6, {3, 4}), (4, {2, 3})])
@pytest.mark.parametrize("p", [1, 3, 8])
def test_lewis_weights_of_ill_conditioned_keys_sum_to_what_is_left_of_the_rank(p, decades, ranks):
    key = keys(60, 4) * torch.logspace(0, -3 * decades, 4, dtype=torch.float64)
    weights = lewis_weights(key, p)
    assert ((weights >= 0) & (weights <= 1 + 1e-9)).all()
    assert weights.sum().item() == pytest.approx(round(weights.sum().item()))
    assert round(weights.sum().item()) in ranks


def adversarial_keys(kind):
    """Small sets of keys on which one query can concentrate."""
    if kind == "random":
        return keys(40, 4)
    if kind == "repeated basis vectors":
        return torch.eye(4, dtype=torch.float64).repeat_interleave(5, 0)
    if kind == "one direction rare":
        key = keys(40, 4)
        key[:, 3] *= 1e-3
        key[11] = torch.tensor([0, 0, 0, 5.0])
        return key
    if kind == "near duplicates, long and zero keys":
        key = keys(5, 4).repeat(8, 1) + 1e-3 * keys(40, 4, seed=9)
        key[::7] *= 100
        key[3] = 0
        return key
    return keys(40, 2) @ keys(2, 4, seed=5)  # of rank two


KINDS = [
    "random",
    "repeated basis vectors",
    "one direction rare",
    "near duplicates, long and zero keys",
    "of rank two",
]


def adversarial_queries(key):
    """Queries that try to raise single entries: keys, whitened keys, nearly orthogonal complements, and random ones."""
    inverse = torch.linalg.pinv(key.T @ key)
    candidates = [key, key @ inverse, keys(400, 4, seed=2), torch.linalg.svd(key).Vh]
    pairs = key[:, None] - key[None]
    return torch.cat((*candidates, pairs.flatten(0, 1) @ inverse))


def refined(query, key, p):
    """Queries moved uphill on the largest entry of their row."""
    query = torch.nn.functional.normalize(query, dim=-1).requires_grad_()
    for _ in range(20):
        (gradient,) = torch.autograd.grad(power_attention(query, key, p).amax(-1).sum(), query)
        step = 0.1 * torch.nn.functional.normalize(gradient, dim=-1)
        query = torch.nn.functional.normalize(query + step, dim=-1).detach().requires_grad_()
    return query.detach()


def power_attention(query, key, p):
    powers = (query @ key.T).abs() ** p
    total = powers.sum(-1, keepdim=True)
    reach = torch.linalg.matrix_norm(key) * query.norm(dim=-1, keepdim=True)
    return torch.where(total > (1e-7 * reach) ** p, powers / total, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_no_query_has_a_large_entry_outside_the_set_and_the_set_is_small(p, kind):
    key = adversarial_keys(kind)
    rank = int(torch.linalg.matrix_rank(key))
    queries = adversarial_queries(key)
    entries = power_attention(torch.cat((queries, refined(queries[:200], key, p))), key, p).amax(0)
    bounds = {"lewis": sensitivity_bounds(key, p)}
    sizes = {"lewis": rank if p <= 2 else rank ** (p / 2)}
    if p % 2 == 0:
        bounds["lifted"] = lifted_scores(key, p)
        sizes["lifted"] = math.comb(rank + p // 2 - 1, p // 2)
    for name, scores in bounds.items():
        assert (entries <= scores + 1e-9).all()
        for eps in (0.05, 0.2, 0.5, 1.0):
            inside = set(threshold(scores, eps).indices.tolist())
            assert set((entries >= eps).nonzero().flatten().tolist()) <= inside
            assert len(inside) <= sizes[name] / eps * (1 + 1e-8)


def test_the_bound_on_the_size_is_reached_by_repeated_basis_vectors():
    key = torch.eye(4, dtype=torch.float64).repeat_interleave(5, 0)
    assert len(threshold(leverage_scores(key), 0.2).indices) == 20


def test_for_squares_a_whitened_key_reaches_its_score():
    key = keys(40, 4)
    query = key @ torch.linalg.inv(key.T @ key)
    assert_close(power_attention(query, key, 2).diagonal(), leverage_scores(key))


def test_top_keys_come_by_score_then_index_in_increasing_order():
    scores = torch.tensor([[0.5, 0.2, 0.5, 0.9, 0.5 + 1e-12], [0.0, 0.0, 0.0, 0.0, 0.1]], dtype=torch.float64)
    assert top_r(scores, 3).indices.tolist() == [[0, 2, 3], [0, 1, 4]]
    assert top_r(scores, 9).indices.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_sets_of_unequal_sizes_are_padded():
    scores = torch.tensor([[0.5, 0.1, 0.7], [0.1, 0.1, 0.5 - 1e-12], [0.0, 0.1, 0.2]], dtype=torch.float64)
    key_set = threshold(scores, 0.5)
    assert key_set.indices.tolist() == [[0, 2], [2, 0], [0, 0]]
    assert key_set.present.tolist() == [[True, True], [True, False], [False, False]]


def test_equal_keys_are_chosen_by_index():
    key = keys(3, 2).repeat(10, 1)
    chosen = top_r(leverage_scores(key), 13).indices
    best = leverage_scores(key[:3]).argmax().item()
    first = [i for i in range(30) if i % 3 == best]
    assert set(first) <= set(chosen.tolist())
    others = sorted(set(chosen.tolist()) - set(first))
    assert len({i % 3 for i in others}) == 1
    assert others == [others[0], others[0] + 3, others[0] + 6]


def test_wrong_arguments_are_refused():
    key = keys(5, 2)
    with pytest.raises(ShapeError, match=r"power p >= 1, got 0\.5"):
        lewis_weights(key, 0.5)
    with pytest.raises(ShapeError, match="even power p >= 2, got 3"):
        lifted_scores(key, 3)
    with pytest.raises(ShapeError, match="0 < eps <= 1"):
        threshold(leverage_scores(key), 0.0)
    with pytest.raises(ShapeError, match="r >= 1 keys, got 0"):
        top_r(leverage_scores(key), 0)
    key[1, 1] = torch.nan
    with pytest.raises(NlsrError, match="keys whose squares are finite"):
        leverage_scores(key)
