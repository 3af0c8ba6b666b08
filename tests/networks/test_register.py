"""Networks by name: those of the package and those of anybody."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nlsr
from nlsr import networks
from nlsr.attention import OPERATORS, DenseAffinity, NonLocal, Operator
from nlsr.attention import register as register_operator
from nlsr.attention.affinity import map_size, to_tokens
from nlsr.errors import CheckpointError, ShapeError, UsageError
from nlsr.networks import NETWORKS, PRESETS, LCoAN, Network, create
from nlsr.train.recipe import read_recipe


@dataclass(frozen=True)
class PlainConfig:
    scale: int
    channels: int = 4


class Plain(Network):
    def __init__(self, config):
        super().__init__(config)
        self.head = nn.Conv2d(3, 3 * config.scale**2, 3, padding=1)

    def _upscale(self, low_res, *, draws, keep, collect):
        return F.pixel_shuffle(self.head(low_res), self.config.scale)

    def bytes_per_pixel(self):
        return 24 * self.config.scale**2


class Mine(Operator):
    def __init__(self, channels, *, width=2):
        super().__init__()
        self.embed = nn.Conv2d(channels, width, 1)

    def match(self, features, *, draws=None, keep="stored"):
        embedding = to_tokens(self.embed(features))
        return DenseAffinity(embedding, embedding, size=map_size(features))


@pytest.fixture(autouse=True)
def dictionaries_stay_as_they_are(monkeypatch):
    for dictionary in (OPERATORS, NETWORKS, PRESETS):
        before = dictionary.copy()
        yield_back.append((dictionary, before))
    yield
    while yield_back:
        dictionary, before = yield_back.pop()
        dictionary.clear()
        dictionary.update(before)


yield_back = []


def image(height=9, width=7):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def same(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_any_network_is_created_by_name_and_equal_calls_are_equal():
    before = torch.random.get_rng_state()
    network = create("lcoan", scale=2, num_groups=4, channels=8, operator="hash")
    assert (type(network), network.config.num_groups, len(network.groups)) == (LCoAN, 4, 4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same(network, nlsr.create("lcoan", scale=2, num_groups=4, channels=8, operator="hash"))
    assert not same(network, create("lcoan", scale=2, num_groups=4, channels=8, operator="hash", seed=1))


def test_old_names_of_fields_are_understood():
    assert create("lcoan-light", scale=2, window_size=32).config.chunk_size == 32
    with pytest.raises(UsageError, match="window_size is called chunk_size today; expected one of them, got both"):
        create("lcoan-light", scale=2, window_size=32, chunk_size=32)


def test_a_network_of_anybody_is_created_saved_loaded_upscales_and_stands_in_recipes(tmp_path):
    networks.register("plain", PlainConfig, Plain)
    networks.register("plain", PlainConfig, Plain)  # again, as a module that is imported twice does
    network = create("plain", scale=3)
    nlsr.save_network(tmp_path / "plain.safetensors", network)
    loaded = nlsr.load(tmp_path / "plain.safetensors")
    assert type(loaded) is Plain
    assert same(loaded, network)
    assert nlsr.Upscaler(tmp_path / "plain.safetensors")(image()).shape == (1, 3, 27, 21)
    (tmp_path / "recipe.toml").write_text(
        'name = "a"\n[network]\npreset = "plain"\nscale = 2\nchannels = 5\n'
        '[data]\ntrain = ["t"]\nvalidation = "v"\n[training]\nsteps = 1\n'
    )
    assert read_recipe(tmp_path / "recipe.toml").build_network().config == PlainConfig(2, 5)


def test_lcoan_is_built_with_an_operator_of_anybody_and_its_settings(tmp_path):
    register_operator("mine", Mine)
    network = create("lcoan-light", scale=2, channels=8, operator="mine", operator_settings={"width": 3})
    assert network.operators()[0].embed.out_channels == 3
    nlsr.save_network(tmp_path / "mine.safetensors", network)
    loaded = nlsr.load(tmp_path / "mine.safetensors")
    assert same(loaded, network)
    torch.testing.assert_close(loaded(image()), network.eval()(image()))


def test_settings_outrank_the_fields_of_the_config_and_fields_that_an_operator_has_not_are_left_out():
    network = create("lcoan-light", scale=2, operator="hash", rounds=2, operator_settings={"chunk_size": 48})
    assert (network.operators()[0].chunk_size, network.operators()[0].rounds) == (48, 2)
    assert create("lcoan-light", scale=2, operator="window", rounds=2).operators()[0].window_size == 8


def test_a_file_that_names_an_unknown_operator_is_refused_with_the_name(tmp_path):
    register_operator("mine", Mine)
    nlsr.save_network(tmp_path / "mine.safetensors", create("lcoan-light", scale=2, operator="mine"))
    del OPERATORS["mine"]
    with pytest.raises(CheckpointError, match=r"operator: expected one of kmeans.*got 'mine'; import the module that"):
        nlsr.load(tmp_path / "mine.safetensors")


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path):
    network = create("lcoan-light", scale=2, channels=8)
    network.groups[0].attention.operator = Mine(8)
    with pytest.raises(UsageError, match="the operator Mine has no name; register it with"):
        nlsr.save_network(tmp_path / "mine.safetensors", network)
    network.groups[0].attention.operator = NonLocal(8)
    with pytest.raises(UsageError, match="the config says operator 'kmeans', but the network has 'dense'"):
        nlsr.save_network(tmp_path / "mine.safetensors", network)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("do", "error", "message"),
    [
        (lambda: create("lcoam", scale=2), UsageError, "expected a network of asid, .*got 'lcoam'"),
        (lambda: create("lcoan", scale=2, groups=3), ShapeError, "groups: unknown; known are scale, channels"),
        (lambda: create("lcoan", scale=2, operator="cross-scale"), ShapeError, "'cross-scale' enlarges what it draws"),
        (lambda: create("lcoan", scale=2, operator_settings={"deep": 1}), UsageError, "'kmeans' cannot be built with"),
        (lambda: networks.register("lcoan", PlainConfig, Plain), UsageError, "'lcoan' is known already"),
        (lambda: networks.register("levn", PlainConfig, Plain), UsageError, "'levn' is known already"),
        (lambda: networks.register("plain", dict, Plain), UsageError, "expected a dataclass with a field 'scale'"),
    ],
)
def test_what_cannot_be_made_is_said(do, error, message):
    with pytest.raises(error, match=message):
        do()
