"""Published tilings: what a tile gives is put where it belongs, and overlaps as the papers' code has them."""

import pytest
import torch
from tests.tolerances import assert_close
from torch.nn import functional as F

from nlsr.upscale.published_tiles import average_tiles, csnln_quarters, edsr_quarters

SIZES = [(1, 1), (1, 30), (23, 29), (24, 71), (64, 64), (70, 85), (150, 97)]


def image(height, width):
    return torch.rand(1, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def nearest(scale, seen=None):
    def upscale(tile):
        if seen is not None:
            seen.append(tuple(tile.shape[2:]))
        return F.interpolate(tile, scale_factor=scale, mode="nearest")

    return upscale


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("tiled", [average_tiles, edsr_quarters, csnln_quarters])
def test_what_looks_at_one_pixel_only_gives_the_same_in_tiles(tiled, scale, size):
    options = dict(scale=scale) if tiled is csnln_quarters else {}
    low_res = image(*size)
    assert_close(tiled(nearest(scale), low_res, **options), nearest(scale)(low_res))


def test_tiles_are_averaged_over_all_that_cover_a_pixel():
    """Two tiles of 64 pixels on 70 overlap in columns 6 to 63: by 24 at least, and the last one is moved back."""
    counter = iter(range(1, 100))

    def numbered(tile):
        return torch.full_like(tile, float(next(counter)))

    result = average_tiles(numbered, image(64, 70))[0, 0, 0]
    assert result.tolist() == [1.0] * 6 + [1.5] * 58 + [2.0] * 6


@pytest.mark.parametrize(
    ("size", "starts"),
    [
        ((64, 64), [0]),
        ((64, 104), [0, 40]),
        ((64, 105), [0, 40, 41]),
        ((64, 145), [0, 40, 80, 81]),
        ((26, 31), [0, 2, 4, 5]),
        ((24, 27), [0, 1, 2, 3]),
        ((1, 3), [0, 1, 2]),
    ],
)
def test_tiles_start_at_even_distances_and_the_last_at_the_edge(size, starts):
    seen = []

    def upscale(tile):
        seen.append(int(tile[0, 0, 0, 0]))
        return tile

    average_tiles(upscale, torch.arange(float(size[1])).expand(1, 3, *size))
    assert seen == starts


def test_quarters_reach_past_the_middle_and_are_cut_again_while_large():
    seen = []
    edsr_quarters(nearest(2, seen), image(100, 99))
    assert seen == [(64, 64)] * 4  # 50 + 10 to the next multiple of 4, a whole 4 further; 49 + 10 of 8
    seen.clear()
    edsr_quarters(nearest(2, seen), image(700, 700))  # quarters of 364x368 = 133,952 pixels, of which 196x200
    assert seen == [(196, 200)] * 16
    seen.clear()
    csnln_quarters(nearest(3, seen), image(100, 100), scale=3)
    assert seen == [(42, 42)] * 16  # of quarters of 63x63 = 3,969 pixels


@pytest.mark.parametrize(
    ("scale", "fails"), [(2, set(range(1, 22))), (3, {*range(1, 21), 22, 23}), (4, set(range(1, 24)))]
)
def test_a_quarter_ends_with_the_image_where_published_code_reaches_beyond(scale, fails):
    for side in range(1, 60):
        seen = []
        csnln_quarters(nearest(scale, seen), image(side, 40), scale=scale)
        published = side // 2 + 10
        published += scale - published % scale
        assert (published > side) == (side in fails)
        assert seen[0][0] == min(side, published)
