"""PFT: sizes, what is kept from layer to layer, what a file says."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tolerances import assert_close

import nlsr
from nlsr.attention.focused_window import GATHERED, FocusedWindow
from nlsr.errors import ShapeError
from nlsr.networks.pft import PFT, PFTConfig, pft, pft_light

ORACLE = Path(__file__).parents[1] / "oracles" / "pft-net-x4.safetensors"


def small(scale=2, **sizes):
    torch.manual_seed(0)
    sizes = dict(channels=8, depths=(2, 3), heads=2, window_size=4, num_keys=(16, 16, 9, 9, 2), hidden=8) | sizes
    return PFT(PFTConfig(scale, **sizes)).eval()


def image(batch, height, width, dtype=torch.float32):
    return torch.rand(batch, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("config", "counted"),
    [
        (pft_light(2), 775_532),
        (pft_light(3), 782_567),
        (pft_light(4), 792_416),
        (pft(2), 19_623_527),
        (pft(3), 19_808_167),
        (pft(4), 19_771_239),
    ],
)
def test_published_networks_have_the_counted_parameters(config, counted):
    with torch.device("meta"):
        assert sum(p.numel() for p in PFT(config).parameters()) == counted


@pytest.mark.parametrize("upsampler", ["direct", "classical"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (4, 8), (9, 5)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_every_size_is_enlarged_by_the_scale_equally_in_equal_calls(scale, size, upsampler):
    network = small(scale, upsampler=upsampler)
    with torch.inference_mode():
        first, second = network(image(2, *size)), network(image(2, *size))
    assert first.shape == (2, 3, scale * size[0], scale * size[1])
    assert first.isfinite().all()
    assert torch.equal(first, second)


def test_layers_keep_ever_fewer_keys_in_windows_of_their_kind():
    affinities = small().trace(image(1, 8, 8)).affinities
    kept = [(affinity.dense() > 0).sum(-1).amax().item() for affinity in affinities]
    assert kept == [16, 16, 9, 9, 2]
    for before, after in ((0, 2), (1, 3), (2, 4)):
        assert ((affinities[after].dense() > 0) <= (affinities[before].dense() > 0)).all()


def test_training_reaches_every_parameter_also_those_of_layers_whose_weights_live_on():
    network = small().train()
    network(image(2, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def features(dtype=torch.float64):
    return torch.randn(2, 8, 9, 7, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("gathered", [1, GATHERED])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("shifted", [False, True])
def test_rows_values_and_gradients_are_those_of_dense_weights_times_dense_weights(
    shifted, heads, gathered, monkeypatch
):
    monkeypatch.setattr("nlsr.attention.focused_window.GATHERED", gathered)
    torch.manual_seed(0)
    first, second, third = (
        FocusedWindow(8, heads=heads, window_size=4, shifted=shifted, num_keys=keys).double() for keys in (16, 6, 3)
    )
    map, values = features().requires_grad_(), torch.randn(2, 63, 8, dtype=torch.float64)

    def matched():
        before = None
        for operator in (first, second, third):
            tokens = map.flatten(2).transpose(1, 2)
            query, key = operator.query(tokens), operator.key(tokens)
            before = operator.match_embedded(query, key, 9, 7, before=before)
        return before

    def plain():
        product, kept = None, None
        for operator in (first, second, third):
            shares = FocusedWindow.match(dataclass_copy(operator), map).dense()
            if product is None:
                product = shares
            else:
                shares = torch.where(kept, shares, 0)
                product = product * shares
                product = product / product.sum(-1, keepdim=True)
            threshold = product.detach().topk(min(operator.num_keys, 63), dim=-1).values[..., -1:]
            kept = (product.detach() >= threshold) & (product.detach() > 0)
            product = torch.where(kept, product, 0)
        return product

    def dataclass_copy(operator):
        whole = FocusedWindow(8, heads=heads, window_size=4, shifted=shifted, num_keys=16).double()
        whole.query, whole.key, whole.offset_bias = operator.query, operator.key, operator.offset_bias
        return whole

    gradients = []
    for matrix in (matched().dense(), plain()):
        by_head = values.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1)
        drawn = (matrix @ by_head).unflatten(0, (2, heads)).transpose(1, 2).flatten(2)
        gradients.append([drawn, *torch.autograd.grad(drawn.pow(3).sum(), [map, first.key.weight, third.query.weight])])
    drawn = matched().aggregate(values)
    gradients.append([drawn, *torch.autograd.grad(drawn.pow(3).sum(), [map, first.key.weight, third.query.weight])])
    for dense, expected, aggregated in zip(*gradients, strict=True):
        assert_close(dense, expected, factor=10)
        assert_close(aggregated, expected, factor=10)


def published():
    tensors = load_file(ORACLE)
    return {name.removeprefix("weights."): w for name, w in tensors.items() if name.startswith("weights.")}


def test_a_published_file_says_everything_but_heads_and_kept_keys(tmp_path):
    save_file(published(), tmp_path / "published.safetensors")
    keys = (64, 64, 16, 16, 8, 8)
    network = nlsr.load(tmp_path / "published.safetensors", heads=2, num_keys=keys)
    assert network.config == PFTConfig(4, 16, (2, 4), 2, 8, keys, 16, 5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (pft_light(5), "expected a scale of 2, 3 or 4, got 5"),
        (dataclasses.replace(pft_light(2), num_keys=(4, 2)), "num_keys for 24 layers that never grow"),
        (dataclasses.replace(pft_light(2), num_keys=tuple(range(1, 25))), "num_keys for 24 layers that never grow"),
        (dataclasses.replace(pft_light(2), heads=5), "heads that divide 52 channels, got 5"),
    ],
)
def test_what_does_not_fit_is_said(config, message):
    with pytest.raises(ShapeError, match=message):
        PFT(config)
