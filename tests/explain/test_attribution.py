"""Local attribution: against closed forms, a receptive field counted by hand, and plain convolution."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from tests.tolerances import assert_close
from torch import nn
from torch.nn import functional as F

from nlsr.errors import ShapeError, UsageError
from nlsr.explain import attribute, diffusion_index, gini
from nlsr.explain.attribution import MAGNITUDE_FLOOR, blur, blur_path, detail, integrated_gradients
from nlsr.explain.region import Region
from nlsr.networks import LCoAN, LCoANConfig


def noise(*shape, dtype=torch.float64, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("steps", [1, 7])
def test_attributions_of_a_linear_score_are_its_weights_times_what_the_blur_took(steps):
    image, weights = noise(1, 3, 16, 19), noise(1, 3, 16, 19, seed=2) - 0.5
    path = blur_path(image)
    found = integrated_gradients(lambda point: (weights * point).sum(), path, steps=steps)
    assert_close(found, weights * (image - path(0)))


def test_the_path_ends_at_the_image_and_begins_at_a_gaussian_of_nine_by_nine_pixels():
    image = noise(1, 3, 11, 16)
    y, x = np.mgrid[-4:5, -4:5]
    kernel = np.exp(-(x**2 + y**2) / (2 * 1.2**2))
    expected = [convolve(channel.numpy(), kernel / kernel.sum(), mode="mirror") for channel in image[0]]
    path = blur_path(image)
    assert_close(path(0)[0], torch.from_numpy(np.stack(expected)))
    assert torch.equal(path(1), image)


def test_attributions_sum_to_the_change_of_the_detail_with_an_error_quadratic_in_the_steps():
    first, second = nn.Conv2d(3, 6, 3, padding=1).double(), nn.Conv2d(6, 12, 3, padding=1).double()

    def upscale(image):
        return F.pixel_shuffle(second(torch.tanh(3 * first(image))), 2)

    image = noise(1, 3, 17, 18)
    errors = []
    for steps in (5, 20):
        found = attribute(upscale, image, (8, 9), steps=steps, window=7)
        change = found.detail - found.blurred_detail
        errors.append(abs(float(found.gradients.sum()) - change) / abs(change))
    assert errors[1] < 1e-3
    assert errors[1] < errors[0] / 8


def test_detail_is_the_sum_of_gradient_magnitudes_in_the_window():
    upscaled = noise(1, 3, 6, 7)
    expected = 0.0
    for channel in range(3):
        for y in (2, 3):
            for x in (1, 2, 3):
                here = upscaled[0, channel, y, x]
                down, right = upscaled[0, channel, y + 1, x] - here, upscaled[0, channel, y, x + 1] - here
                expected += math.sqrt(down**2 + right**2 + MAGNITUDE_FLOOR)
    assert_close(detail(upscaled, Region(1, 2, 3, 2)), torch.tensor(expected, dtype=torch.float64))


def test_the_window_lies_on_the_pixel_and_inside_the_result():
    def upscale(image):
        return F.interpolate(image, scale_factor=3, mode="nearest")

    image = noise(1, 3, 16, 20)
    windows = {at: attribute(upscale, image, at, steps=1, window=5).window for at in [(0, 0), (10, 7), (19, 15)]}
    assert windows == {
        (0, 0): Region(0, 0, 5, 5),
        (10, 7): Region(31 - 2, 22 - 2, 5, 5),
        (19, 15): Region(60 - 1 - 5, 48 - 1 - 5, 5, 5),
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1, 1, 1, 1], 0), ([0, 0, 0, 5], 3 / 4), ([2, 1, 4, 3], 1 / 4), ([0, 1, 0, 1], 1 / 2)],
)
def test_the_gini_index_of_values_made_by_hand(values, expected):
    map = torch.tensor(values, dtype=torch.float32).view(2, 2)
    assert gini(map) == pytest.approx(expected, abs=1e-12)
    assert diffusion_index(map) == pytest.approx(100 * (1 - expected), abs=1e-10)


def test_convolutions_are_attributed_to_their_receptive_field_and_attention_beyond_it():
    def beyond(operator):
        config = LCoANConfig(2, channels=4, num_groups=2, num_blocks=1, operator=operator, upsampler="direct")
        torch.manual_seed(3)
        network = LCoAN(config).double()
        for parameter in network.parameters():  # attention starts as the identity
            nn.init.normal_(parameter, std=0.3)
        window, (x, y) = 4, (14, 17)
        map = attribute(network, noise(1, 3, 33, 35), (x, y), steps=2, window=window).map
        # Head, two groups of two convolutions and one, fuse, upsampler; the window with its differences is that of
        # upscaled columns 27 to 31, which are made of columns 13 to 15.
        reach = 1 + 2 * (2 + 1) + 1 + 1
        outside = torch.ones_like(map, dtype=torch.bool)
        outside[y - 1 - reach : y + 1 + reach + 1, x - 1 - reach : x + 1 + reach + 1] = False
        assert map[~outside].max() > 0
        return float(map[outside].max())

    assert beyond("none") == 0
    assert beyond("dense") > 0
    assert beyond("kmeans") > 0


def test_a_flat_picture_has_no_attribution_and_no_index():
    def upscale(image):
        return F.interpolate(image, scale_factor=2, mode="nearest")

    found = attribute(upscale, torch.full((1, 3, 16, 16), 0.25), (3, 3), steps=2)
    assert found.map.abs().max() < 1e-6
    assert math.isnan(diffusion_index(torch.zeros(4, 4)))


def test_each_step_is_reported():
    told = []
    integrated_gradients(
        torch.sum, blur_path(noise(1, 3, 9, 9)), steps=3, report=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_wrong_steps_windows_and_sizes_are_refused():
    def upscale(image):
        return F.interpolate(image, scale_factor=2, mode="nearest")

    image = noise(1, 3, 16, 18)
    with pytest.raises(UsageError, match="expected at least 1 step of attribution, got 0"):
        attribute(upscale, image, (3, 3), steps=0)
    with pytest.raises(UsageError, match="expected a window of 1 to 31 upscaled pixels in a result of 36x32, got 32"):
        attribute(upscale, image, (3, 3), window=32)
    with pytest.raises(ShapeError, match="expected an image of more than 4 pixels a side"):
        blur(noise(1, 3, 4, 9), 1.0, size=9)
