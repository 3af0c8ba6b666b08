"""Whole or in tiles, a picture comes out the same; the plan is a pure function of sizes and budget."""

import pytest
import torch
from tests.tolerances import assert_close

from nlsr.errors import ShapeError, UsageError
from nlsr.images import Picture
from nlsr.networks import LCoAN, LCoANConfig
from nlsr.upscale import Upscaler
from nlsr.upscale.memory import parse_size
from nlsr.upscale.tiles import Axis, plan


def network(scale=2, **sizes):
    torch.manual_seed(0)
    sizes = dict(channels=8, num_groups=1, num_blocks=1, operator="none", image_skip=True) | sizes
    return LCoAN(LCoANConfig(scale, **sizes)).eval()


def image(height, width):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("tile", [16, 17, 40, 64])
@pytest.mark.parametrize("size", [1, 15, 16, 17, 63, 64, 65, 107, 108, 300])
def test_tiles_cover_an_axis_with_weights_that_sum_to_one(size, tile):
    axis = Axis.cut(size, tile)
    for scale in (2, 3):
        total = torch.zeros(size * scale)
        for index, start in enumerate(axis.starts):
            weights = axis.weights(index, scale)
            assert (weights >= 0).all()
            total[start * scale : (start + axis.tile_size) * scale] += weights
        assert_close(total, torch.ones(size * scale))


def test_tiles_are_of_equal_size_and_as_few_as_possible():
    axis = Axis.cut(1000, 256)
    assert axis.tile_size == 256
    assert axis.starts[0] == 0
    assert axis.starts[-1] + 256 == 1000
    assert len(axis.starts) == 5  # 4 tiles with an overlap of 24 reach 952


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (33, 70), (100, 41)])
def test_tiled_equals_whole_where_a_network_sees_less_than_the_overlap(size):
    low_res = image(*size)
    whole = Upscaler(network(), tile="none")(low_res)
    tiled = Upscaler(network(), tile=64)(low_res)
    assert_close(tiled, whole)


def test_a_result_is_what_the_network_gives_clamped_to_the_range():
    low_res = image(9, 12) * 3 - 1
    with torch.inference_mode():
        expected = network()(low_res).clamp(0, 1)
    result = Upscaler(network())(low_res)
    assert_close(result, expected)
    assert result.min() == 0
    assert result.max() == 1


@pytest.mark.parametrize(("depth", "dtype", "top"), [(8, torch.uint8, 255), (16, torch.uint16, 65535)])
def test_a_picture_keeps_its_depth_and_what_it_carries(depth, dtype, top):
    picture = Picture(image(8, 6), alpha=torch.ones(1, 1, 8, 6), depth=depth, profile=b"profile", exif=b"exif")
    result = Upscaler(network()).upscale(picture).picture
    assert (result.pixels.dtype, result.depth) == (dtype, depth)
    assert (result.profile, result.exif) == (b"profile", b"exif")
    assert result.alpha.shape == (1, 1, 16, 12)
    assert_close(result.alpha, torch.ones(1, 1, 16, 12))
    expected = Upscaler(network())(picture.pixels)
    assert (result.pixels.double() / top - expected).abs().max() <= 0.5 / top + 1e-6


def test_progress_is_told_tile_by_tile():
    calls = []
    Upscaler(network(), tile=32)(image(50, 40), report=lambda done, total: calls.append((done, total)))
    assert calls == [(i + 1, calls[-1][1]) for i in range(len(calls))]
    assert len(calls) > 3


def test_a_smaller_budget_makes_smaller_tiles_and_a_large_one_none():
    light = network(channels=32)
    plans = [Upscaler(light, memory=memory).plan(2000, 3000) for memory in (2**28, 2**29, 2**30, 2**35)]
    sizes = [plan.rows.tile_size for plan in plans]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]
    assert plans[-1].num_tiles == 1
    assert str(plans[-1]).startswith("whole")


def test_a_budget_that_no_tile_fits_is_refused():
    with pytest.raises(UsageError, match="needs at least"):
        Upscaler(network(), memory=1000).plan(100, 100)


def test_a_picture_too_large_for_the_default_budget_is_done_in_the_smallest_tiles(monkeypatch):
    monkeypatch.setattr("nlsr.upscale.upscaler.default_budget", lambda: 1000)
    chosen = Upscaler(network()).plan(100, 100)
    assert chosen.rows.tile_size == 64
    assert "needs more than" in str(chosen)


def test_a_plan_says_its_tiles():
    assert str(plan(100, 300, tile_size=128, reason="as asked")) == "3 tiles of 128x100 (as asked)"


@pytest.mark.parametrize(
    ("text", "size"), [("2GiB", 2**31), ("500 MB", 5 * 10**8), ("1.5g", 3 * 2**29), ("4096", 4096)]
)
def test_sizes_are_understood(text, size):
    assert parse_size(text) == size


def test_an_array_of_another_shape_is_refused():
    with pytest.raises(ShapeError, match=r"expected an image \(1, 3, height, width\), got \(3, 5, 5\)"):
        Upscaler(network())(torch.rand(3, 5, 5))
