"""What a model's name and options make of it: tiles, draws, positions; and whether published numbers are about it."""

from functools import partial, reduce
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nlsr.errors import CheckpointError, UsageError
from nlsr.evaluate import bicubic_model, load_model
from nlsr.networks import NLSN, LCoAN, LCoANConfig, Network, NLSNConfig, name_of
from nlsr.upscale.published_tiles import edsr_quarters
from nlsr.weights import load, packaged, save_network


@pytest.fixture
def low_res() -> Tensor:
    return torch.rand(1, 3, 40, 48)


def saved(folder: Path, network: Network) -> str:
    path = folder / f"{name_of(network)}.safetensors"
    save_network(path, network)
    return str(path)


@pytest.fixture
def lcoan(tmp_path: Path) -> str:
    config = LCoANConfig(2, channels=8, num_groups=2, num_blocks=1, num_clusters=4, chunk_size=16)
    return saved(tmp_path, LCoAN(config))


@pytest.fixture
def nlsn(tmp_path: Path) -> str:
    return saved(tmp_path, NLSN(NLSNConfig(2, channels=8, num_blocks=2, chunk_size=16, rounds=1, residual_scale=1.0)))


def test_a_model_is_its_network_in_single_precision(lcoan: str, low_res: Tensor) -> None:
    model = load_model(lcoan)
    with torch.no_grad():
        torch.testing.assert_close(model.upscale(low_res), load(lcoan)(low_res).clamp(0, 1), atol=1e-5, rtol=0)
    assert (model.scale, model.network, model.published_as) == (2, "lcoan", None)


def test_published_tiles_are_those_of_the_network(nlsn: str, low_res: Tensor) -> None:
    model = load_model(nlsn, tiles="published")
    with torch.no_grad():
        upscaled = model.upscale(low_res)
        assert torch.equal(upscaled, edsr_quarters(load(nlsn), low_res))
        assert not torch.allclose(upscaled.clamp(0, 1), load_model(nlsn).upscale(low_res), atol=1e-4)


def test_the_ensemble_is_the_mean_over_eight_positions(lcoan: str, low_res: Tensor) -> None:
    network = load(lcoan)
    positions = [(turns, flipped) for turns in range(4) for flipped in (False, True)]
    expected = torch.zeros(1, 3, 80, 96)
    with torch.no_grad():
        for turns, flipped in positions:
            turned = low_res.rot90(turns, (2, 3))
            upscaled = network(turned.flip(3) if flipped else turned)
            expected += (upscaled.flip(3) if flipped else upscaled).rot90(-turns, (2, 3)) / 8
        ensemble = load_model(lcoan, ensemble=True).upscale(low_res)
    torch.testing.assert_close(ensemble, expected.clamp(0, 1), atol=1e-5, rtol=0)


def test_the_ensemble_goes_around_published_tiles(nlsn: str, low_res: Tensor) -> None:
    with torch.no_grad():
        tiled = partial(edsr_quarters, load(nlsn))
        expected = sum(
            tiled(low_res.rot90(turns, (2, 3)).flip(dims)).flip(dims).rot90(-turns, (2, 3)) / 8
            for turns in range(4)
            for dims in ((), (3,))
        )
        actual = load_model(nlsn, tiles="published", ensemble=True).upscale(low_res)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_redrawn_directions_depend_on_seed_and_image_alone(nlsn: str, low_res: Tensor) -> None:
    other = low_res.flip(2)
    with torch.no_grad():
        model = load_model(nlsn, redraw=1)
        first = model.upscale(low_res)
        model.upscale(other)
        assert torch.equal(model.upscale(low_res), first)
        assert torch.equal(load_model(nlsn, redraw=1).upscale(low_res), first)
        assert not torch.equal(load_model(nlsn, redraw=2).upscale(low_res), first)
        assert not torch.equal(load_model(nlsn).upscale(low_res), first)


def test_identities_differ_where_results_may(lcoan: str, nlsn: str) -> None:
    make = partial(load_model, lcoan)
    models = [
        make(), make(tiles=16), make(tiles="published"), make(redraw=1), make(redraw=2), make(ensemble=True),
        load_model(nlsn), bicubic_model(2), bicubic_model(3),
    ]  # fmt: skip
    identities = [repr(model.identity) for model in models]
    assert len(set(identities)) == len(identities)
    assert load_model(lcoan).identity == make().identity


def test_a_family_takes_a_scale_that_it_has_or_its_largest() -> None:
    scales = {name.removeprefix("lcoan-light-x") for name in packaged() if name.startswith("lcoan-light-x")}
    assert load_model("lcoan-light", scale=4).identity == load_model("lcoan-light-x4").identity
    assert load_model("lcoan-light").scale == max(map(int, scales))
    missing = next(scale for scale in (7, 9) if str(scale) not in scales)
    with pytest.raises(UsageError, match=f"the model lcoan-light has no scale {missing}; there is"):
        load_model("lcoan-light", scale=missing)


def test_wrong_requests_are_errors(lcoan: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`model=bicubic`: needs `scale`"):
        load_model("bicubic")
    with pytest.raises(UsageError, match=r"`scale=3`: .* upscales by 2"):
        load_model(lcoan, scale=3)
    with pytest.raises(CheckpointError, match="no model is named 'none-such'"):
        load_model("none-such")


def test_published_weights_are_a_foreign_file_of_the_published_sizes(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from nlsr.networks import PAN, PANConfig

    assert bicubic_model(4).published_as == "bicubic"
    for config, expected in (
        (PANConfig(4), "pan"),
        (PANConfig(4, channels=8, upsampler_channels=8, num_blocks=1), None),
    ):
        foreign = tmp_path / "PANx4_DF2K.safetensors"
        save_file(as_published(PAN(config)), foreign)
        assert load_model(str(foreign)).published_as == expected
        assert load_model(saved(tmp_path, PAN(config))).published_as is None


def as_published(network: Network) -> dict[str, Tensor]:
    """A PAN's tensors under the names of the authors' files."""
    names = {
        "head.": "conv_first.", "fuse.": "trunk_conv.", "tail.": "conv_last.", ".plain_in.": ".conv1_a.",
        ".gated_in.": ".conv1_b.", ".plain.": ".k1.0.", ".gated.gate.": ".PAConv.k2.", ".gated.first.": ".PAConv.k3.",
        ".gated.second.": ".PAConv.k4.", ".join.": ".conv3.", "blocks.": "SCPA_trunk.",
        "upsample.0.first": "upconv1", "upsample.0.attention.gate": "att1.conv", "upsample.0.second": "HRconv1",
        "upsample.1.first": "upconv2", "upsample.1.attention.gate": "att2.conv", "upsample.1.second": "HRconv2",
    }  # fmt: skip
    renamed = {}
    for name, tensor in network.state_dict().items():
        theirs = reduce(lambda name, pair: name.replace(*pair), names.items(), name)
        renamed[theirs] = tensor.contiguous()
    return renamed
