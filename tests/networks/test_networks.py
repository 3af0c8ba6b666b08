"""Every network: sizes, parameter counts, errors, sharing."""

import dataclasses
import weakref

import pytest
import torch
from tests.tolerances import assert_close

from nlsr.attention import Affinity
from nlsr.errors import ShapeError, UsageError
from nlsr.networks import (
    DLSN,
    ENLCN,
    NETWORKS,
    NLAN,
    NLSN,
    PAN,
    PRESETS,
    DLSNConfig,
    ENLCNConfig,
    LCoAN,
    LCoANConfig,
    NLANConfig,
    NLSNConfig,
    PANConfig,
    SMFANet,
    SMFANetConfig,
    name_of,
)
from nlsr.networks.parts import check_low_res


def small(scale=4, **sizes):
    torch.manual_seed(0)
    sizes = dict(channels=8, num_groups=3, num_blocks=1, num_clusters=6, chunk_size=16, reduction=2) | sizes
    network = LCoAN(LCoANConfig(scale, **sizes))
    with torch.no_grad():
        for group in network.groups:
            if group.attention is not None:  # starts as the identity; here it should matter
                group.attention.values.weight.normal_()
    return network.eval()


def image(batch, height, width, dtype=torch.float32):
    return torch.rand(batch, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("scale", "counted", "never_used"), [(2, 15_668_484, 1), (3, 16_406_404, 1), (4, 16_258_820, 1)]
)
def test_published_lcoan_has_the_counted_parameters_less_those_never_used(scale, counted, never_used):
    network = LCoAN(PRESETS["lcoan"](scale))
    matching_of_reusing_groups = 1_328_256
    assert sum(p.numel() for p in network.parameters()) == counted - matching_of_reusing_groups - never_used


@pytest.mark.parametrize(("scale", "counted"), [(2, 261_403), (3, 261_403), (4, 272_419)])
def test_published_pan_has_the_counted_parameters(scale, counted):
    assert sum(p.numel() for p in PAN(PRESETS["pan"](scale)).parameters()) == counted


@pytest.mark.parametrize(("scale", "counted"), [(2, 41_796_163), (3, 44_746_563), (4, 44_156_483)])
def test_published_nlsn_has_the_counted_parameters(scale, counted):
    with torch.device("meta"):
        assert sum(p.numel() for p in NLSN(PRESETS["nlsn"](scale)).parameters()) == counted


@pytest.mark.parametrize(("scale", "counted"), [(2, 41.22), (3, 44.17), (4, 43.58)])
def test_published_enlcn_has_the_counted_parameters(scale, counted):
    with torch.device("meta"):
        assert sum(p.numel() for p in ENLCN(PRESETS["enlcn"](scale)).parameters()) / 1e6 == pytest.approx(
            counted, abs=0.006
        )


@pytest.mark.parametrize(("scale", "counted"), [(2, 69_842_564), (3, 72_792_964), (4, 72_202_884)])
def test_published_dlsn_has_the_counted_parameters_less_one_never_used(scale, counted):
    with torch.device("meta"):
        assert sum(p.numel() for p in DLSN(PRESETS["dlsn"](scale)).parameters()) == counted - 1


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_nlan_is_lcoan_with_another_attention(scale):
    """Ten times two 1x1 embeddings and slopes in place of one 3x3 embedding: all else is equal."""
    with torch.device("meta"):
        ours, lcoans = (
            sum(p.numel() for p in network.parameters())
            for network in (NLAN(PRESETS["nlan"](scale)), LCoAN(PRESETS["lcoan"](scale)))
        )
    embedding, embeddings = 128 * 128 * 9 + 128, 10 * (2 * (128 * 64 + 64) + 3)
    assert ours - embeddings == lcoans - embedding


SMALL = {
    "dlsn": lambda scale: DLSN(DLSNConfig(scale, channels=8, num_groups=2, num_blocks=1, chunk_size=12, rounds=2)),
    "enlcn": lambda scale: ENLCN(ENLCNConfig(scale, channels=8, num_blocks=9)),
    "nlan": lambda scale: NLAN(NLANConfig(scale, channels=8, num_groups=2, num_blocks=1)),
    "nlsn": lambda scale: NLSN(NLSNConfig(scale, channels=8, num_blocks=9, chunk_size=12, rounds=2)),
    "pan": lambda scale: PAN(PANConfig(scale, channels=9, upsampler_channels=4, num_blocks=2)),
    "smfanet": lambda scale: SMFANet(SMFANetConfig(scale, channels=6, num_blocks=2)),
}


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5), (12, 12)])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", SMALL)
def test_every_network_enlarges_every_size_equally_in_equal_calls(name, scale, size):
    network = SMALL[name](scale).eval()
    with torch.inference_mode():
        first, second = network(image(2, *size)), network(image(2, *size))
    assert first.shape == (2, 3, scale * size[0], scale * size[1])
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["dlsn", "nlsn"])
def test_directions_are_drawn_from_a_generator_if_one_is_given(name):
    network = SMALL[name](2).eval()
    results = []
    with torch.inference_mode():
        for seed in (1, 1, 2, None):
            draws = None if seed is None else torch.Generator().manual_seed(seed)
            results.append(network.trace(image(1, 20, 15), draws=draws).upscaled)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[3])


@torch.no_grad()
def test_trace_draws_from_what_the_network_was_given_as_forward_does():
    network = SMALL["nlsn"](2).eval()
    seeded = network.trace(image(1, 20, 15)).upscaled
    network.draws = torch.Generator().manual_seed(1)
    forward = network(image(1, 20, 15))
    network.draws = torch.Generator().manual_seed(1)
    assert torch.equal(network.trace(image(1, 20, 15)).upscaled, forward)
    assert not torch.equal(forward, seeded)


def test_draws_that_are_not_as_many_as_operators_are_refused_by_forward_and_trace():
    network = SMALL["nlsn"](2).eval()
    network.draws = [torch.zeros(1)]
    for call in (network, network.trace):
        with pytest.raises(ShapeError, match="expected draws for 2 operators, got 1"):
            call(image(1, 20, 15))


def test_forward_draws_anew_in_each_call_if_the_network_is_given_a_generator():
    network = SMALL["nlsn"](2).eval()
    network.draws = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        first, second = network(image(1, 20, 15)), network(image(1, 20, 15))
        network.draws = torch.Generator().manual_seed(1)
        again = network(image(1, 20, 15))
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_operators_of_a_network_draw_different_directions():
    affinities = SMALL["nlsn"](2).trace(image(1, 20, 15)).affinities
    assert len(affinities) == 2
    assert not torch.equal(affinities[0].codes, affinities[1].codes)


def test_the_light_preset_matches_once_and_reuses_the_match():
    network = LCoAN(PRESETS["lcoan-light"](4))
    assert len(network.operators()) == 1
    assert sum(group.attention is not None for group in network.groups) == 2
    assert sum(p.numel() for p in network.parameters()) < 1.1e6


@pytest.mark.parametrize(
    "operator", ["kmeans", "hash", "superbit", "kernel", "leverage", "nearest", "window", "grid", "dense", "none"]
)
@pytest.mark.parametrize("upsampler", ["edsr", "direct"])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5), (12, 13)])
def test_every_size_is_enlarged_by_the_scale(scale, size, upsampler, operator):
    network = small(scale, upsampler=upsampler, operator=operator, image_skip=upsampler == "direct")
    with torch.inference_mode():
        result = network(image(2, *size))
    assert result.shape == (2, 3, scale * size[0], scale * size[1])
    assert result.isfinite().all()


@pytest.mark.parametrize(
    "operator", ["kmeans", "hash", "superbit", "kernel", "leverage", "nearest", "window", "grid", "dense"]
)
def test_an_image_alone_and_in_a_batch_gives_the_same(operator):
    network = small(operator=operator)
    images = image(3, 11, 9)
    with torch.inference_mode():
        together = network(images)
        alone = torch.cat([network(one[None]) for one in images])
    assert_close(alone, together)


def test_sharing_matches_once_and_not_sharing_matches_in_every_group():
    images = image(1, 9, 9)
    assert len(small(share=True).trace(images).affinities) == 1
    unshared = small(share=False)
    assert len(unshared.trace(images).affinities) == len(unshared.operators()) == 3


def test_the_gradient_of_the_embedding_flows_through_every_reuse_stored_or_recomputed():
    gradients = {}
    for keep in ("stored", "recomputed"):
        network = small().double()
        network.trace(image(2, 10, 7, torch.float64), keep=keep).upscaled.square().sum().backward()
        gradients[keep] = network.groups[0].attention.operator.embed.weight.grad
    assert_close(gradients["stored"], gradients["recomputed"])

    only_first = small().double()
    for group in only_first.groups[1:]:
        group.attention.residual_scale = 0.0
    only_first.trace(image(2, 10, 7, torch.float64)).upscaled.square().sum().backward()
    partial = only_first.groups[0].attention.operator.embed.weight.grad
    assert (partial - gradients["stored"]).norm() > 0.01 * gradients["stored"].norm()


def test_the_gradient_of_the_embedding_equals_that_of_a_plain_matrix():
    """The first group's affinity as one dense matrix, differentiated by torch alone, through all groups."""
    from tests.attention.test_affinities import plain_matrix

    images = image(2, 6, 7, torch.float64)
    network = small(rounds=2).double()
    network.trace(images).upscaled.square().sum().backward()
    fast = network.groups[0].attention.operator.embed.weight.grad.clone()

    network.zero_grad()
    operator = network.groups[0].attention.operator
    match = operator.match

    class Plain(Affinity):
        def __init__(self, affinity):
            super().__init__(affinity.num_queries, size=(affinity.height, affinity.width))
            self.matrix = plain_matrix(affinity)

        def aggregate(self, values):
            return self.matrix @ values

        def rows(self, queries):
            return self.matrix[:, queries]

    operator.match = lambda features, **options: Plain(match(features, **options))
    network.trace(images).upscaled.square().sum().backward()
    assert_close(fast, operator.embed.weight.grad)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(
    "operator", ["kmeans", "hash", "superbit", "kernel", "leverage", "nearest", "window", "grid", "dense", "none"]
)
def test_gradients_reach_every_parameter(operator, share):
    network = small(operator=operator, share=share)
    network(image(1, 9, 9)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_evaluation_changes_no_buffer():
    network = small()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.train()(image(1, 9, 9))
    network.eval()(image(1, 9, 9))
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


def test_networks_are_known_by_name():
    for name, preset in PRESETS.items():
        config = preset(4)
        known = next(known for known, (config_type, _) in NETWORKS.items() if config_type is type(config))
        assert name.startswith({"glan": "glan", "levn": "levn"}.get(name, known))
    assert name_of(small()) == "lcoan"
    with pytest.raises(UsageError, match=r"expected a network of nlsr \(asid, .*\), got Linear"):
        name_of(torch.nn.Linear(1, 1))


def holding(config, **values):
    """A config with values of any type: outside of tests nothing keeps them out when a config is made."""
    for name, value in values.items():
        object.__setattr__(config, name, value)
    return config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LCoAN(LCoANConfig(5)), "expected a scale of 2, 3 or 4, got 5"),
        (lambda: PAN(PANConfig(1)), "expected a scale of 2, 3 or 4, got 1"),
        (
            lambda: LCoAN(holding(LCoANConfig(4), operator="attention")),
            "operator: expected one of kmeans, .*got 'attention'",
        ),
        (
            lambda: LCoAN(holding(LCoANConfig(4), upsampler="nearest")),
            "upsampler: expected 'edsr' or 'direct', got 'nearest'",
        ),
        (lambda: PAN(holding(PANConfig(4), channels="40")), "channels: expected 40, got '40'"),
        (lambda: NLSN(NLSNConfig(4, rounds=0)), "rounds: expected a whole number above zero, got 0"),
        (lambda: LCoAN(dataclasses.replace(PRESETS["lcoan-light"](4), reduction=3)), "divides 64 channels, got 3"),
        (lambda: check_low_res(torch.rand(3, 8, 8)), r"got \(3, 8, 8\); add a batch axis with image\[None\]"),
        (
            lambda: check_low_res(torch.rand(1, 1, 8, 8)),
            r"expected low_res \(batch, 3, height, width\), got \(1, 1, 8, 8\)",
        ),
        (lambda: check_low_res(torch.rand(1, 3, 0, 8)), r"got \(1, 3, 0, 8\)"),
    ],
)
def test_what_does_not_fit_is_said(make, message):
    with pytest.raises(ShapeError, match=message):
        make()


@pytest.mark.parametrize("name", [name for name in SMALL if SMALL[name](2).operators()])
@torch.no_grad()
def test_upscaling_forgets_an_affinity_before_the_next_is_matched_and_a_trace_keeps_them_all(name, monkeypatch):
    network = SMALL[name](2).eval()
    alive, most = weakref.WeakSet(), []
    for operator in set(network.operators()):

        def match(*args, matching=operator.match, **options):
            most.append(len(alive))
            affinity = matching(*args, **options)
            alive.add(affinity)
            return affinity

        monkeypatch.setattr(operator, "match", match)
    network(image(1, 9, 8))
    assert max(most) == 0
    assert not alive
    assert len(network.trace(image(1, 9, 8)).affinities) == len(network.operators())
