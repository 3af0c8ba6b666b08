"""ENLCA's features and loss: what they estimate, at which sizes they are defined, and that blocks change nothing."""

import pytest
import torch
from tests.tolerances import assert_close

from nlsr.attention import EfficientContrastive, KernelAffinity, contrastive_loss, sampled_contrastive_loss
from nlsr.attention import efficient_contrastive as module
from nlsr.attention.efficient_contrastive import orthogonal_directions


def embeddings(length, width=6, batch=2, amplification=6.0, seed=0, dtype=torch.float64):
    drawn = torch.randn(2, batch, length, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return amplification**0.5 * torch.nn.functional.normalize(drawn, dim=-1)


def plain_loss(query, key):
    """The definition, with all scores at once."""
    ranked = (query @ key.mT).exp().sort(dim=-1, descending=True).values
    positive, negative = ranked[..., :15].mean(-1), ranked[..., 50:65].mean(-1)
    return (1 - (positive / (negative + 1e-6)).log()).clamp_min(0).mean()


@pytest.mark.parametrize("length", [51, 64, 65, 130])
def test_the_loss_in_blocks_equals_its_definition_in_value_and_gradient(length, monkeypatch):
    monkeypatch.setattr(module, "SCORE_BLOCK_BYTES", 20_000)  # several blocks
    gradients = []
    for loss in (contrastive_loss, plain_loss):
        query, key = (tensor.requires_grad_() for tensor in embeddings(length, amplification=0.1))
        value = loss(query, key)
        gradients.append((value, *torch.autograd.grad(value, (query, key))))
    assert gradients[0][0] > 0
    for ours, expected in zip(*gradients, strict=True):
        assert_close(ours, expected)


@pytest.mark.parametrize("length", [1, 50])
def test_the_loss_of_a_small_map_is_zero_and_finite(length):
    assert contrastive_loss(*embeddings(length)) == 0


def test_the_sampled_loss_is_exact_with_all_queries_and_near_with_some():
    query, key = embeddings(400, amplification=1.0)
    exact = contrastive_loss(query, key)
    generator = torch.Generator().manual_seed(0)
    assert_close(sampled_contrastive_loss(query, key, num_queries=400, generator=generator), exact)
    few = [sampled_contrastive_loss(query, key, num_queries=40, generator=generator) for _ in range(50)]
    assert torch.stack(few).mean() == pytest.approx(exact.item(), rel=0.02)
    assert torch.stack(few).std() > 0


def test_many_features_estimate_softmax_at_low_amplification():
    query, key = embeddings(40, width=8, amplification=1.0)
    exact = (query @ key.mT).softmax(-1)
    errors = []
    for count in (64, 4096):
        projection = orthogonal_directions(count, 8, torch.Generator().manual_seed(1)).double()
        rows = KernelAffinity(query, key, projection).dense()
        errors.append(((rows - exact).norm() / exact.norm()).item())
    assert errors[1] < 0.08 < errors[0]


def test_directions_are_orthogonal_within_blocks():
    drawn = orthogonal_directions(10, 4, torch.Generator().manual_seed(0))
    products = drawn[:4] @ drawn[:4].T
    assert (products - products.diag().diag()).abs().max() < 1e-5
    assert drawn.shape == (10, 4)


def test_redrawing_changes_the_directions_and_forward_does_not():
    operator = EfficientContrastive(8, reduction=2)
    before = operator.projection.clone()
    operator.train().match(torch.randn(1, 8, 6, 6))
    assert torch.equal(operator.projection, before)
    operator.redraw(torch.Generator().manual_seed(5))
    assert not torch.equal(operator.projection, before)


def test_recomputed_features_in_several_blocks_change_nothing(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 7)
    query, key = embeddings(20)
    projection = orthogonal_directions(16, 6, torch.Generator().manual_seed(1)).double()
    values = torch.randn(2, 20, 3, dtype=torch.float64)
    stored, recomputed = (
        KernelAffinity(query, key, projection, keep=keep).aggregate(values) for keep in ("stored", "recomputed")
    )
    assert_close(stored, recomputed)
