"""Our networks in spandrel's registry."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.networks.test_catanet import published as published_catanet
from tests.test_oracles import FOLDER

import nlsr
from nlsr.networks.catanet import catanet
from nlsr.weights import packaged

spandrel = pytest.importorskip("spandrel", reason="needs spandrel: pip install --no-deps 'spandrel>=0.4'")


@pytest.fixture
def loader():
    """A loader of spandrel's own networks and ours."""
    from nlsr.spandrel import register

    registry = spandrel.MAIN_REGISTRY.copy()
    assert "nlsr-lcoan" in register(registry)
    return spandrel.ModelLoader(registry=registry)


def published(name, folder):
    tensors = load_file(FOLDER / f"{name}.safetensors")
    path = folder / "published.safetensors"
    save_file({key.removeprefix("weights."): w for key, w in tensors.items() if key.startswith("weights.")}, path)
    return path


@pytest.mark.parametrize(
    ("oracle", "architecture"),
    [
        ("lcoan-net_x2", "LCoAN"),
        ("nlsn-net_x3", "NLSN"),
        ("enlcn-net_x2", "ENLCN"),
        ("csnln-net_x2", "CSNLN"),
        ("glan-net_x2", "DLSN"),
        ("asid-net-x2", "ASID"),
        ("pan-net-x4", "PAN"),
        ("atd-net-x3-odd", "ATD"),
        ("smfanet-net-x4", "SMFANet"),
    ],
)
@torch.no_grad()
def test_published_files_load_and_give_our_pictures(loader, tmp_path, oracle, architecture):
    path = published(oracle, tmp_path)
    descriptor = loader.load_from_file(path)
    assert descriptor.architecture.name == architecture
    network = nlsr.load(path)
    assert descriptor.scale == network.scale
    image = torch.rand(1, 3, 12, 10)
    torch.testing.assert_close(descriptor(image), network(image).clamp(0, 1))


def test_a_published_catanet_loads(loader):
    descriptor = loader.load_from_state_dict(published_catanet(4, 8, 40, 36, 96, catanet(4).num_centres))
    assert (descriptor.architecture.name, descriptor.model.config) == ("CATANet", catanet(4))


@pytest.mark.parametrize("preset", ["catanet-shared", "atd-light", "pft-light", "smfanet-plus"])
def test_networks_of_ours_load_at_the_sizes_of_a_preset(loader, preset):
    network = nlsr.create(preset, scale=3)
    descriptor = loader.load_from_state_dict(network.state_dict())
    assert (descriptor.architecture.name, descriptor.scale) == (type(network).__name__, 3)
    assert descriptor.model.config == network.config


def test_the_light_network_loads_at_the_sizes_that_it_had(loader):
    network = nlsr.create("lcoan-light", scale=3, num_groups=4, num_blocks=2, balanced=False)
    descriptor = loader.load_from_state_dict(network.state_dict())
    assert descriptor.model.config == network.config


@pytest.mark.parametrize("name", packaged())
@torch.no_grad()
def test_packaged_weights_load(loader, name):
    descriptor = loader.load_from_file(packaged()[name])
    network = nlsr.load(name)
    assert (descriptor.architecture.id, descriptor.scale) == ("nlsr-lcoan", network.scale)
    image = torch.rand(1, 3, 9, 8)
    torch.testing.assert_close(descriptor(image), network(image).clamp(0, 1))


def test_files_that_spandrel_knows_stay_spandrels(loader):
    from spandrel.architectures.Compact import Compact
    from spandrel.architectures.ESRGAN import ESRGAN
    from spandrel.architectures.SAFMN import SAFMN

    modules = [Compact(num_feat=8, num_conv=2), ESRGAN(num_filters=8, num_blocks=1), SAFMN(dim=8, n_blocks=1)]
    for module in modules:
        state = module.state_dict()
        own = spandrel.ModelLoader().load_from_state_dict(dict(state)).architecture.id
        assert loader.load_from_state_dict(dict(state)).architecture.id == own


def test_registering_twice_changes_nothing():
    from nlsr.spandrel import register

    registry = spandrel.MAIN_REGISTRY.copy()
    number = len(register(registry))
    assert number > 8
    assert register(registry) == []
    assert len(registry) == len(spandrel.MAIN_REGISTRY) + number
