"""ATD: sizes, continuation of the image, sharing of nothing, what a file says."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tolerances import assert_close

import nlsr
from nlsr.attention import ShiftedWindow, TokenCategories
from nlsr.errors import CheckpointError, ShapeError
from nlsr.networks.atd import ATD, ATDConfig, atd, atd_light
from nlsr.networks.window_transformer import continued

ORACLE = Path(__file__).parents[1] / "oracles" / "atd-net-x4.safetensors"


def small(scale=2, **sizes):
    torch.manual_seed(0)
    sizes = dict(channels=8, depths=(2, 1), heads=(2, 1), window_size=4, chunk_size=6, num_tokens=5, hidden=8) | sizes
    return ATD(ATDConfig(scale, **sizes)).eval()


def image(batch, height, width, dtype=torch.float32):
    return torch.rand(batch, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("config", "counted"),
    [
        (atd_light(2), 753_204),
        (atd_light(3), 759_699),
        (atd_light(4), 768_792),
        (atd(2), 20_113_217),
        (atd(3), 20_297_857),
        (atd(4), 20_260_929),
    ],
)
def test_published_networks_have_the_counted_parameters(config, counted):
    with torch.device("meta"):
        assert sum(p.numel() for p in ATD(config).parameters()) == counted


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


def test_an_image_alone_and_in_a_batch_gives_the_same():
    network, images = small(), image(3, 11, 9)
    with torch.inference_mode():
        assert_close(torch.cat([network(one[None]) for one in images]), network(images))


@pytest.mark.parametrize("length", [1, 3, 5, 8, 11])
def test_an_image_is_continued_by_its_mirror_image_edge_first_again_and_again(length):
    line = torch.arange(length, dtype=torch.float32)
    there_and_back = torch.cat((line, line.flip(0))).repeat(8)
    expected = there_and_back[: -(-length // 8) * 8]
    assert torch.equal(continued(line.view(1, 1, 1, -1).expand(1, 1, 8, -1), 8), expected.expand(1, 1, 8, -1))
    assert torch.equal(continued(line.view(1, 1, -1, 1).expand(1, 1, -1, 8), 8)[0, 0, :, 0], expected)


def test_each_layer_matches_categories_and_windows_every_other_shifted():
    network = small(depths=(3, 2))
    operators = network.operators()
    assert [type(operator) for operator in operators] == [TokenCategories, ShiftedWindow] * 5
    assert [operator.shifted for operator in operators[1::2]] == [False, True, False, False, True]
    assert len(network.trace(image(1, 9, 7)).affinities) == 10


def test_training_reaches_every_parameter():
    network = small(depths=(3, 2)).train()
    network(image(2, 10, 7)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def published(**changes):
    tensors = load_file(ORACLE)
    tensors = {name.removeprefix("weights."): w for name, w in tensors.items() if name.startswith("weights.")}
    return tensors | changes


def test_a_published_file_says_everything_but_the_size_of_categories(tmp_path):
    index = torch.zeros(64, 64, dtype=torch.int64)
    save_file(published(relative_position_index_SA=index), tmp_path / "published.safetensors")
    network = nlsr.load(tmp_path / "published.safetensors")
    assert network.config == ATDConfig(4, 16, (2, 2), (2, 2), 8, 128, 6, 5, 16, 5)
    assert nlsr.load(tmp_path / "published.safetensors", chunk_size=24).config.chunk_size == 24


def test_a_published_file_with_a_missing_tensor_is_refused_by_its_published_name(tmp_path):
    tensors = published()
    del tensors["layers.1.residual_group.layers.0.attn_atd.wk.bias"]
    save_file(tensors, tmp_path / "published.safetensors")
    with pytest.raises(CheckpointError, match=r"missing 'layers\.1\.residual_group\.layers\.0\.attn_atd\.wk\.bias'"):
        nlsr.load(tmp_path / "published.safetensors")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (atd_light(5), "expected a scale of 2, 3 or 4, got 5"),
        (dataclasses.replace(atd_light(2), heads=(4,)), "expected heads for 4 stages, got"),
        (dataclasses.replace(atd_light(2), heads=(5,) * 4), "heads that divide 48 channels, got 5"),
    ],
)
def test_what_does_not_fit_is_said(config, message):
    with pytest.raises(ShapeError, match=message):
        ATD(config)
