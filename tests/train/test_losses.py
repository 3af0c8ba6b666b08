"""Losses: each term against a closed form or another library, and their weights."""

import numpy as np
import pytest
import torch

from nlsr.errors import RecipeError
from nlsr.train.losses import CHARBONNIER_EPS, PIXEL_LOSSES
from nlsr.train.recipe import read_recipe


def images(*size):
    return torch.rand(2, 3, *size, dtype=torch.float64), torch.rand(2, 3, *size, dtype=torch.float64)


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (12, 12)])
def test_terms_equal_their_definitions(size):
    upscaled, high_res = images(*size)
    error = (upscaled - high_res).numpy()
    spectrum = np.fft.fft2(upscaled.numpy()) - np.fft.fft2(high_res.numpy())
    expected = {
        "l1": np.abs(error).mean(),
        "mse": (error**2).mean(),
        "charbonnier": np.sqrt(error**2 + 1e-6).mean(),
        "frequency": (np.abs(spectrum.real) + np.abs(spectrum.imag)).mean() / 2 / np.sqrt(size[0] * size[1]),
    }
    assert PIXEL_LOSSES.keys() == expected.keys()
    for name, loss in PIXEL_LOSSES.items():
        assert loss(upscaled, high_res).item() == pytest.approx(expected[name], rel=1e-12), name


def test_equal_images_cost_nothing_and_gradients_are_finite():
    image = torch.rand(1, 3, 6, 6, requires_grad=True)
    for name, loss in PIXEL_LOSSES.items():
        value = loss(image, image.detach().clone())
        assert value.item() == pytest.approx(CHARBONNIER_EPS if name == "charbonnier" else 0, abs=1e-7)
        (gradient,) = torch.autograd.grad(value, image)
        assert gradient.isfinite().all(), name


def test_a_pure_wave_costs_in_frequency_by_its_two_lines_alone():
    """cos has two lines of height sqrt(pixels) / 2; an error of one amplitude a costs a / sqrt(pixels) / 2."""
    wave = 0.1 * torch.cos(2 * torch.pi * 3 * torch.arange(16.0).double() / 16).expand(1, 3, 16, 16)
    assert PIXEL_LOSSES["frequency"](wave, torch.zeros_like(wave)).item() == pytest.approx(0.1 / 16 / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.losses={l1=0.0}", "training.losses: expected a weight above zero for l1, mse"),
        ("training.losses={l1=1.0,attention_after=5}", "attention_after needs attention above zero"),
        ("training.losses={freqency=1.0}", "training.losses.freqency: unknown; did you mean 'frequency'?"),
        ("training.losses={l1=-1.0}", "training.losses.l1: Input should be greater than or equal to 0"),
    ],
)
def test_wrong_weights_are_named(recipe_file, setting, message):
    with pytest.raises(RecipeError) as error:
        read_recipe(recipe_file, [setting])
    assert message in str(error.value)


def test_a_contrastive_loss_needs_an_attention_that_has_one(recipe_file):
    with pytest.raises(RecipeError, match=r"losses\.attention: lcoan-light has no attention with a loss of its own"):
        read_recipe(recipe_file, ["training.losses={l1=1.0,attention=0.1}"]).build_network()
    with pytest.raises(RecipeError, match=r"redraw_every: lcoan-light has no attention with random directions"):
        read_recipe(recipe_file, ["training.redraw_every=3"]).build_network()
    with pytest.raises(RecipeError, match=r"losses\.likeness: lcoan-light matches nothing here"):
        read_recipe(recipe_file, ["training.losses={l1=1.0,likeness=0.1}", "network.operator='none'"]).build_network()
