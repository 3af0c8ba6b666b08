"""Colours spread under transparent pixels, so that enlarging carries no junk into the visible border."""

import pytest
import torch
from tests.tolerances import assert_close

from nlsr.images import bleed, resize

SIZES = [(1, 1), (1, 7), (5, 3), (16, 16), (33, 70)]


def picture(size, batch=3, visible=0.3):
    generator = torch.Generator().manual_seed(5)
    pixels = torch.rand(batch, 3, *size, generator=generator, dtype=torch.float64)
    alpha = torch.rand(batch, 1, *size, generator=generator, dtype=torch.float64)
    return pixels, alpha * (torch.rand(batch, 1, *size, generator=generator) < visible)


@pytest.mark.parametrize("size", SIZES)
def test_pixels_that_are_seen_keep_their_colour(size):
    pixels, alpha = picture(size)
    assert torch.equal(bleed(pixels, alpha).where(alpha > 0, 0), pixels.where(alpha > 0, 0))


@pytest.mark.parametrize("size", SIZES)
def test_what_lies_under_transparent_pixels_does_not_matter(size):
    pixels, alpha = picture(size)
    assert torch.equal(bleed(pixels, alpha), bleed(pixels.where(alpha > 0, 17.0), alpha))


@pytest.mark.parametrize("size", SIZES)
def test_filled_colours_lie_between_the_visible_ones(size):
    pixels, alpha = picture(size)
    filled = bleed(pixels, alpha)
    for one, mask, result in zip(pixels, alpha > 0, filled, strict=True):
        for channel in range(3):
            seen = one[channel][mask[0]]
            low, high = (seen.min(), seen.max()) if len(seen) else (torch.tensor(0.0), torch.tensor(0.0))
            assert low - 1e-12 <= result[channel].min()
            assert result[channel].max() <= high + 1e-12


def test_a_white_disc_on_transparent_black_is_enlarged_without_a_dark_fringe():
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    alpha = (15.3 - ((y - 19) ** 2 + (x - 24) ** 2).sqrt()).clamp(0, 1)[None, None]
    pixels = (alpha > 0).float().expand(1, 3, -1, -1)  # black where nothing is seen
    visible = resize(alpha, scale=4) > 0.01
    assert resize(pixels, scale=4)[visible.expand(1, 3, -1, -1)].min() < 0.7
    assert resize(bleed(pixels, alpha), scale=4)[visible.expand(1, 3, -1, -1)].min() > 0.9999


def test_the_nearest_colours_win():
    pixels, alpha = torch.zeros(1, 3, 32, 96), torch.zeros(1, 1, 32, 96)
    pixels[:, 0, :, 0], pixels[:, 2, :, -1] = 1, 1  # red at the left edge, blue at the right
    alpha[..., 0] = alpha[..., -1] = 1
    filled = bleed(pixels, alpha)[0]
    assert (filled[0, :, :20] > filled[2, :, :20]).all()
    assert (filled[0, :, -20:] < filled[2, :, -20:]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions_agree(dtype):
    pixels, alpha = picture((33, 70))
    filled = bleed(pixels.to(dtype), alpha.to(dtype))
    assert_close(filled, bleed(pixels, alpha).to(dtype), factor=2)


def test_opaque_pictures_are_returned_as_they_are():
    pixels = torch.rand(1, 3, 5, 6)
    assert bleed(pixels, torch.full((1, 1, 5, 6), 0.1)) is pixels


def test_equal_calls_give_equal_results():
    assert torch.equal(bleed(*picture((33, 70))), bleed(*picture((33, 70))))
