"""Tiles cover an axis, and their weights sum to one."""

import pytest
import torch
from tests.tolerances import assert_close

from nlsr.upscale.tiles import Axis


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


def test_tiles_are_as_few_as_possible():
    axis = Axis.cut(1000, 256)
    assert len(axis.starts) == 5  # 4 tiles with an overlap of 24 reach 952
    assert axis.starts[0] == 0
    assert axis.starts[-1] + axis.tile_size == 1000


@pytest.mark.parametrize("tile", [16, 47, 72, 256, 352])
@pytest.mark.parametrize("size", [17, 300, 866, 1000, 1155, 4000])
def test_tiles_are_as_small_as_their_number_and_overlap_allow(size, tile):
    axis = Axis.cut(size, tile)
    count, overlap = len(axis.starts), min(24, tile // 3)
    assert axis.tile_size <= tile
    assert count * axis.tile_size - (count - 1) * overlap >= size
    assert count * (axis.tile_size - 1) - (count - 1) * overlap < size
    assert all(axis.overlap_before(index) >= overlap for index in range(1, count))
