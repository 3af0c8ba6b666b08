"""Explanations: repeatable, of the right part of a picture, within memory, and drawn."""

import numpy as np
import pytest
import torch
from torch import nn

from nlsr.errors import ShapeError, UsageError
from nlsr.explain import Region, explain
from nlsr.explain.explanation import held_for_backward
from nlsr.explain.picture import render
from nlsr.networks import (
    ASID,
    CSNLN,
    DLSN,
    NLSN,
    PAN,
    ASIDConfig,
    CSNLNConfig,
    DLSNConfig,
    LCoAN,
    LCoANConfig,
    NLSNConfig,
    PANConfig,
)


def noise(height, width):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def lcoan(operator="hash"):
    return LCoAN(LCoANConfig(2, channels=8, num_groups=2, num_blocks=1, operator=operator, chunk_size=16))


def lcoan_like(network):
    """The same weights, drawing by seed."""
    other = LCoAN(network.config)
    other.load_state_dict(network.state_dict())
    return other


def equal(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_equal_calls_give_equal_results_and_leave_the_network_as_it_was():
    network, image = lcoan(), noise(21, 18)
    network.draws = generator = torch.Generator().manual_seed(5)
    state = generator.get_state()
    first, second = (explain(network, image, (3, 4), steps=2) for _ in range(2))
    assert equal(first.arrays(), second.arrays())
    assert equal(first.arrays(), explain(lcoan_like(network), image, (3, 4), steps=2).arrays())
    assert network.training
    assert network.draws is generator
    assert torch.equal(generator.get_state(), state)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert torch.equal(render(first, image, title="a"), render(second, image, title="a"))


def test_only_the_square_around_the_pixel_decides():
    network, image = lcoan("dense"), noise(40, 50)
    explanation = explain(network, image, (45, 20), region=20, attribution_region=17, steps=2)
    assert explanation.region == Region(30, 10, 20, 20)
    assert explanation.attribution_region == Region(33, 12, 17, 17)
    elsewhere = image.clone()
    elsewhere[..., :30] = 0
    assert equal(
        explanation.arrays(), explain(network, elsewhere, (45, 20), region=20, attribution_region=17, steps=2).arrays()
    )
    alone = explain(network, image[..., 10:30, 30:50], (15, 10), attribution_region=17, steps=2)
    assert np.array_equal(alone.arrays()["heat"], explanation.arrays()["heat"])
    assert np.array_equal(alone.arrays()["attribution"], explanation.arrays()["attribution"])


def test_a_picture_is_matched_whole_up_to_a_size_and_a_memory():
    network, image = lcoan(), noise(40, 90)
    assert explain(network, image, (0, 0), steps=1, window=4).region == Region(0, 0, 90, 40)
    budget = 50 * 50 * network.bytes_per_pixel()
    small = explain(network, image, (80, 39), attribution_region=16, steps=1, window=4, memory=budget)
    assert small.region == Region(40, 0, 50, 40)
    network = PAN(PANConfig(2, channels=8, num_blocks=1))
    large = explain(network, torch.zeros(1, 3, 600, 700), (699, 1), attribution_region=16, steps=1, window=4)
    assert large.region == Region(700 - 512, 0, 512, 512)
    assert large.sources is None


def test_the_arrays_have_the_sizes_of_their_regions():
    arrays = explain(lcoan(), noise(18, 40), (3, 4), attribution_region=20, steps=1).arrays()
    shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes == {
        "at": (2,),
        "region": (4,),
        "heat": (18, 40),
        "strongest": (20, 2),
        "reach": (18, 40),
        "groups": (1, 18, 40),
        "attribution": (18, 20),
        "attribution_region": (4,),
        "attribution_window": (4,),
        "integrated_gradients": (3, 18, 20),
        "diffusion_index": (),
        "upscaled": (3, 36, 40),
    }
    assert np.allclose(arrays["attribution"], np.abs(arrays["integrated_gradients"].sum(0)))


def test_what_backward_holds_is_counted_once():
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 2, 3, padding=1))
    # The input of the first convolution, and what the ReLU gives, which the second one keeps too.
    assert held_for_backward(network, noise(16, 16)) == 4 * 16 * 16 * (3 + 5)


@pytest.mark.parametrize(
    ("at", "message"),
    [((18, 3), "18,3 lies outside the picture of 18x21; x goes from 0 to 17, y to 20"), ((0, -1), "0,-1 lies outside")],
)
def test_points_outside_are_refused(at, message):
    with pytest.raises(UsageError, match=message):
        explain(lcoan(), noise(21, 18), at)


def test_small_pictures_and_other_shapes_are_refused():
    with pytest.raises(ShapeError, match="expected a picture of at least 16x16 pixels, got 40x15"):
        explain(lcoan(), noise(15, 40), (0, 0))
    with pytest.raises(ShapeError, match=r"expected an image \(1, 3, height, width\), got \(3, 20, 20\)"):
        explain(lcoan(), noise(20, 20)[0], (0, 0))


def test_what_does_not_fit_the_memory_is_refused():
    network, image = lcoan(), noise(64, 64)
    need = network.bytes_per_pixel()
    with pytest.raises(UsageError, match=r"matching 60x60 pixels needs about .*; take less with `region`, or allow"):
        explain(network, image, (9, 9), region=60, memory=59 * 60 * need)
    with pytest.raises(UsageError, match=r"attribution on 64x64 pixels needs about .* with `attribution_region`, or"):
        explain(network, image, (9, 9), memory=64 * 64 * need)
    with pytest.raises(UsageError, match=r"this network needs about .*, the budget is .*; allow more with `memory`"):
        explain(network, image, (9, 9), memory=100 * need)


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (lcoan("kmeans"), (18, 40)),
        (lcoan("leverage"), (40, 18)),
        (lcoan("dense"), (20, 20)),
        (ASID(ASIDConfig(2, channels=8)), (19, 30)),
        (CSNLN(CSNLNConfig(2, channels=4, recurrences=1)), (17, 19)),
        (PAN(PANConfig(2, channels=8, num_blocks=1)), (30, 16)),
    ],
)
def test_every_kind_of_affinity_is_drawn_and_differs_from_pixel_to_pixel(network, size):
    image = noise(*size)
    pictures = [render(explain(network, image, at, steps=1, window=5), image, title="$a") for at in ((3, 4), (9, 15))]
    assert all(picture.dtype == torch.uint8 and picture.shape[1] == 3 for picture in pictures)
    assert not torch.equal(*pictures)


def test_a_flat_picture_is_drawn():
    image = torch.zeros(1, 3, 20, 20)
    explanation = explain(PAN(PANConfig(2, channels=8, num_blocks=1)), image, (3, 4), steps=1)
    assert render(explanation, image, title="flat").shape[1] == 3


def test_a_missing_matplotlib_is_named(monkeypatch):
    image = noise(16, 16)
    explanation = explain(lcoan(), image, (3, 4), steps=1)
    monkeypatch.setattr("nlsr.extras.find_spec", lambda module: None)
    with pytest.raises(UsageError, match=r"needs 'matplotlib'; install it with: .*matplotlib>="):
        render(explanation, image, title="")


@pytest.mark.parametrize("kind", ["nlsn", "dlsn"])
def test_networks_with_the_published_chunks_are_explained(kind):
    network = {
        "nlsn": lambda: NLSN(NLSNConfig(2, channels=16, num_blocks=1)),
        "dlsn": lambda: DLSN(DLSNConfig(2, channels=16, num_groups=2, num_blocks=1)),
    }[kind]()
    found = explain(network, torch.rand(1, 3, 24, 24), (5, 5), affinity=1 if kind == "dlsn" else 0, steps=1)
    assert abs(float(found.sources.heat.sum()) - 1) < 1e-5


def test_a_long_strip_is_drawn():
    network = lcoan("kmeans")
    image = torch.rand(1, 3, 16, 1400)
    assert render(explain(network, image, (5, 5), steps=1), image, title="strip").shape[1] == 3
