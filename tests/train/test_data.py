"""Training pairs: aligned, decoded once, and a pure function of seed and step."""

import pytest
import torch

from nlsr.errors import RecipeError
from nlsr.images import resize
from nlsr.train.data import Batches, prepare


def pairs(data, tmp_path, scale=2, source_scales=(1.0,), report=None):
    return prepare(
        [data / "train"], scale=scale, source_scales=list(source_scales), cache=tmp_path / "cache", report=report
    )


def batches(pairs, **changes):
    return Batches(pairs, **(dict(patch_size=8, batch_size=6, seed=1) | changes))


def test_low_res_images_are_made_by_our_resize(data, tmp_path):
    for scale in (2, 3, 4):
        prepared = pairs(data, tmp_path, scale)
        assert len(prepared) == 3
        for low, high in prepared:
            assert high.shape[1] % scale == high.shape[2] % scale == 0
            assert torch.equal(low, resize(high, scale=1 / scale))


def test_sources_are_used_at_each_scale(data, tmp_path):
    prepared = pairs(data, tmp_path, source_scales=[1.0, 0.5])
    assert [tuple(high.shape) for _, high in list(prepared)[:2]] == [(3, 64, 80), (3, 32, 40)]


def test_patches_are_aligned(data, tmp_path):
    """Shrinking the inside of a high-res patch gives the inside of its low-res patch."""
    low, high = batches(pairs(data, tmp_path), patch_size=16)[0]
    again = resize(high.mul(255).round().to(torch.uint8), scale=1 / 2).float() / 255
    # Turning a patch exchanges the two passes of the resize, which may round a value the other way.
    assert (low - again)[..., 3:-3, 3:-3].abs().max() < 1.5 / 255
    assert ((low - again)[..., 3:-3, 3:-3] == 0).float().mean() > 0.8


def test_a_batch_depends_on_seed_and_step_alone(data, tmp_path):
    prepared = pairs(data, tmp_path)
    first, again = batches(prepared), batches(prepared)
    again[0]
    assert torch.equal(first[5][0], again[5][0])
    assert not torch.equal(first[5][0], first[6][0])
    assert not torch.equal(first[5][0], batches(prepared, seed=2)[5][0])


def test_ranks_share_one_batch(data, tmp_path):
    prepared = pairs(data, tmp_path)
    whole = batches(prepared)[3]
    parts = [batches(prepared, rank=rank, ranks=2)[3] for rank in range(2)]
    for i in range(2):
        assert torch.equal(torch.cat([part[i] for part in parts]), whole[i])


def test_images_smaller_than_the_patch_are_left_out_and_none_left_is_an_error(data, tmp_path):
    prepared = pairs(data, tmp_path)
    with pytest.raises(RecipeError, match="no training image holds a patch of 64x64 low-res pixels"):
        batches(prepared, patch_size=64)


def test_a_batch_that_cannot_be_divided_is_refused(data, tmp_path):
    with pytest.raises(RecipeError, match="a multiple of the 4 processes, got 6"):
        batches(pairs(data, tmp_path), ranks=4)


def test_of_several_places_the_most_detailed_is_taken(data, tmp_path):
    """The detail of 200 patches: the best of four random ones have more, and flat ones nearly disappear."""

    def details(most_detailed_of):
        low = batches(pairs(data, tmp_path), batch_size=200, most_detailed_of=most_detailed_of)[0][0]
        return (low.diff(dim=2).abs().mean((1, 2, 3)) + low.diff(dim=3).abs().mean((1, 2, 3))).sort().values

    one, four = details(1), details(4)
    assert four.mean() > one.mean()
    # The share p of smallest values among single places is p^4 among the best of four: all quantiles move up.
    assert (four[[20, 100, 180]] > one[[20, 100, 180]]).all()
    first, second = (batches(pairs(data, tmp_path), most_detailed_of=4) for _ in range(2))
    assert torch.equal(first[7][1], second[7][1])
