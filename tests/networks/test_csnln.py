"""CSNLN: sizes, odd images, what a trace holds, training in recurrences, files."""

import sys
import weakref

import pytest
import torch
from tests.checks.case import Case
from tests.test_oracles import FOLDER
from tests.tolerances import assert_close
from torch.nn import functional as F

import nlsr
from nlsr.attention.cross_scale import CrossScaleAffinity, CrossScaleAttention
from nlsr.attention.dense import DenseAffinity
from nlsr.errors import CheckpointError, ShapeError
from nlsr.networks.csnln import CSNLN, CSNLNConfig, csnln


def small(scale, **sizes):
    torch.manual_seed(0)
    return CSNLN(CSNLNConfig(scale, **(dict(channels=4, recurrences=2) | sizes))).eval()


def image(batch, height, width, dtype=torch.float32):
    return torch.rand(batch, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("scale", "counted"), [(2, 3_061_265), (3, 6_010_385), (4, 6_568_603)])
def test_the_published_network_has_the_counted_parameters(scale, counted):
    with torch.device("meta"):
        assert sum(p.numel() for p in CSNLN(csnln(scale)).parameters()) == counted


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 5), (3, 3), (7, 6)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_every_size_works_at_every_scale(scale, size):
    with torch.inference_mode():
        upscaled = small(scale)(image(2, *size))
    assert upscaled.shape == (2, 3, scale * size[0], scale * size[1])
    assert upscaled.isfinite().all()


@pytest.mark.parametrize(("scale", "even"), [(2, (6, 4)), (3, (6, 6)), (4, (6, 4))])
def test_an_image_of_odd_size_is_upscaled_as_if_its_last_row_and_column_went_on(scale, even):
    network, low_res = small(scale), image(1, 5, 4)
    padded = F.pad(low_res, (0, even[1] - 4, 0, even[0] - 5), mode="replicate")
    with torch.inference_mode():
        assert torch.equal(network(low_res), network(padded)[..., : 5 * scale, : 4 * scale])


def test_an_image_alone_and_in_a_batch_gives_the_same():
    network, images = small(4), image(3, 5, 6)
    with torch.inference_mode():
        assert_close(torch.cat([network(one[None]) for one in images]), network(images))


@pytest.mark.parametrize(("scale", "stages"), [(2, 1), (3, 1), (4, 2)])
def test_a_trace_holds_an_affinity_of_each_operator_in_each_recurrence(scale, stages):
    network, low_res = small(scale, recurrences=3), image(1, 6, 6)
    trace = network.trace(low_res)
    kinds = [type(affinity) for affinity in trace.affinities]
    assert kinds == [DenseAffinity, CrossScaleAffinity] * stages * 3
    assert [affinity.num_queries for affinity in trace.affinities[: 2 * stages]] == [36, 36, 144, 144][: 2 * stages]
    parts = [
        part for stage in network.cell.stages for part in (stage.projection.in_scale, stage.projection.cross_scale)
    ]
    assert network.operators() == [part.operator for part in parts] * 3
    network.learn(network.observe(trace), generator=torch.Generator())
    assert torch.equal(trace.upscaled, network(low_res))


def test_a_forward_lets_the_affinities_of_one_recurrence_go_before_the_next(monkeypatch):
    alive, attend = [], CrossScaleAttention.attend

    def watched(self, features):
        assert all(reference() is None for reference in alive)
        result = attend(self, features)
        alive.append(weakref.ref(result[1]))
        return result

    monkeypatch.setattr(CrossScaleAttention, "attend", watched)
    with torch.inference_mode():
        small(2, recurrences=3)(image(1, 4, 4))
    assert len(alive) == 3


@pytest.mark.parametrize("scale", [2, 4])
def test_recurrences_computed_again_in_backward_change_no_gradient(scale, monkeypatch):
    results = []
    for again in (True, False):
        if not again:
            network_module = sys.modules[CSNLN.__module__]
            monkeypatch.setattr(network_module, "checkpoint", lambda function, *inputs, **_: function(*inputs))
        network = small(scale).double()
        upscaled = network.trace(image(2, 5, 4, torch.float64)).upscaled
        results.append((upscaled, *torch.autograd.grad(upscaled.square().sum(), list(network.parameters()))))
    for ours, expected in zip(*results, strict=True):
        assert_close(ours, expected)
        assert expected.ndim == 1 or expected.abs().sum() > 0


def test_the_gradient_of_a_pixel_follows_finite_differences():
    network, low_res = small(2, channels=2).double(), image(1, 2, 3, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(network, low_res, eps=1e-6, atol=1e-5)


def test_affinities_of_a_trace_carry_gradients():
    network = small(2)
    affinity = network.trace(image(1, 4, 4)).affinities[1]
    affinity.aggregate(torch.randn(1, affinity.num_keys, 2)).sum().backward()
    assert network.head[0][0].weight.grad.abs().sum() > 0


def test_under_autocast_the_image_stays_close():
    network, low_res = small(2, channels=8), image(1, 8, 8)
    with torch.inference_mode():
        expected = network(low_res)
        with torch.autocast("cpu", torch.bfloat16):
            assert_close(network(low_res).bfloat16(), expected.bfloat16(), factor=3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CSNLN(CSNLNConfig(5)), "expected a scale of 2, 3 or 4, got 5"),
        (lambda: CSNLN(CSNLNConfig(2, channels=9)), "divides 9 channels, got 2"),
    ],
)
def test_what_does_not_fit_is_said(make, message):
    with pytest.raises(ShapeError, match=message):
        make()


def published(scale):
    case = Case(FOLDER / f"csnln-net_x{scale}.safetensors")
    return case, case.weights()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_published_file_may_lack_what_is_constant(scale, tmp_path):
    case, weights = published(scale)
    learned = {name: t for name, t in weights.items() if "escape_NaN" not in name and "_mean" not in name}
    torch.save(learned, tmp_path / "learned.pt")
    with torch.inference_mode():
        case.check(nlsr.load(tmp_path / "learned.pt")(case["input"]), "output")


def test_a_published_file_that_does_not_fit_is_told_by_its_own_names(tmp_path):
    _, weights = published(4)
    del weights["SEM.multi_source_projection_2.up_attention.conv_match_1.1.weight"]
    weights["SEM.down_sample_4.0.weight"] = weights["SEM.down_sample_4.0.weight"][..., :6, :6]
    weights["SEM.extra.weight"] = torch.zeros(1)
    torch.save(weights, tmp_path / "broken.pt")
    with pytest.raises(CheckpointError) as error:
        nlsr.load(tmp_path / "broken.pt")
    message = str(error.value)
    assert "closest to csnln" in message
    assert "missing 'SEM.multi_source_projection_2.up_attention.conv_match_1.1.weight' (1,)" in message
    assert "'SEM.down_sample_4.0.weight' is (16, 16, 6, 6), expected (16, 16, 8, 8)" in message
    assert "unexpected 'SEM.extra.weight' (1,)" in message
