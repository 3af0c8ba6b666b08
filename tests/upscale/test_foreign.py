"""Modules and functions of anybody, as models of the upscaler."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nlsr
from nlsr.errors import UsageError
from nlsr.upscale.foreign import Foreign


def nearest(image):
    return F.interpolate(image, scale_factor=3, mode="nearest")


class Twice(nn.Module):
    """Convolutions of a known number of channels, whose scale it says itself."""

    scale = 2

    def __init__(self, channels=16):
        super().__init__()
        self.head = nn.Conv2d(3, channels, 3, padding=1, padding_mode="replicate")
        self.tail = nn.Conv2d(channels, 12, 1)

    def forward(self, image):
        return F.pixel_shuffle(self.tail(self.head(image)), 2)


def photo(height=21, width=34):
    return np.random.default_rng(0).random((height, width, 3), dtype=np.float32)


def test_a_function_enlarges_pictures_by_its_scale():
    larger = nlsr.Upscaler(nearest, model_scale=3, precision="fp32")(photo())
    np.testing.assert_array_equal(larger, photo().repeat(3, 0).repeat(3, 1))


def test_sizes_beyond_the_scale_are_made_as_with_networks():
    upscaler = nlsr.Upscaler(nearest, model_scale=3, scale=9)
    assert upscaler(photo()).shape == (189, 306, 3)
    assert nlsr.Upscaler(nearest, model_scale=3, width=50)(photo()).shape == (31, 50, 3)


def test_a_module_knows_its_scale_and_stays_as_it_is():
    torch.manual_seed(0)
    module = Twice().train()
    larger = nlsr.Upscaler(module, precision="fp32")(photo())
    with torch.no_grad():
        expected = module(torch.from_numpy(photo()).permute(2, 0, 1)[None]).clamp(0, 1)
    np.testing.assert_allclose(larger, expected[0].permute(1, 2, 0).numpy(), atol=1e-5)
    assert module.training


def test_the_budget_cuts_pictures_into_tiles():
    torch.manual_seed(0)
    module = Twice(channels=256).eval()
    upscaler = nlsr.Upscaler(module, memory="120MiB", precision="fp32")
    plan = upscaler.plan(600, 400)
    assert plan.tile_size is not None
    assert plan.predicted <= 120 * 2**20
    picture = photo(300, 200)
    whole = nlsr.Upscaler(module, tile="none", precision="fp32")(picture)
    np.testing.assert_allclose(nlsr.Upscaler(module, tile=64, precision="fp32")(picture), whole, atol=1e-4)


def test_memory_is_counted_from_the_tensors_that_live_at_once():
    """In `Twice`, 16 and 12 numbers per pixel live together, and a convolution may copy the 16 that it reads."""
    assert Foreign(Twice()).bytes_per_pixel() == pytest.approx(4 * (16 + 12 + 16), rel=0.1)
    assert Foreign(nearest, 3).bytes_per_pixel() == pytest.approx(4 * 27, rel=0.01)


def test_memory_that_a_module_states_is_taken():
    class Stating(Twice):
        def bytes_per_pixel(self):
            return 1234

    assert Foreign(Stating()).bytes_per_pixel() == 1234


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nlsr.Upscaler(nearest), "expected model_scale, how many times larger nearest makes an image"),
        (lambda: nlsr.Upscaler(nearest, model_scale=2)(photo()), r"nearest x2: expected \(1, 3, 128, 128\) .* got"),
        (lambda: nlsr.Upscaler(lambda image: 1 / 0, model_scale=2)(photo()), "fails on a 64x64 image: division by"),
        (lambda: nlsr.Upscaler("lcoan-light-x4", model_scale=4), "model_scale: belongs to a function"),
        (lambda: nlsr.Upscaler(7), "expected a name of weights, a file, a network or a function, got int"),
        (lambda: nlsr.Upscaler(lambda image: image, model_scale=1, scale=2)(photo()), "this model does not enlarge"),
    ],
)
def test_what_is_no_model_is_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()
