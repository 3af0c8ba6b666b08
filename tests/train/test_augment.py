"""Augmentations keep pairs pairs; each does what its key says, and a batch stays a function of seed and step."""

import itertools

import numpy as np
import pytest
import torch

from nlsr.errors import RecipeError
from nlsr.images import resize
from nlsr.train.data import AugmentationSection, Batches, DegradationSection, flip_and_turn, prepare
from nlsr.train.data.augment import paste, random_rectangle
from nlsr.train.recipe import read_recipe

NOISY = DegradationSection(clean=0.0, noise=1.0, noise_level=(20.0, 20.0), poisson=0.0)


@pytest.fixture
def batch(data, tmp_path):
    """batch(step, ...) of 24 patches of 16x16 at x2; keywords are those of the section."""
    pairs = prepare([data / "train"], scale=2, cache=tmp_path / "cache")

    def make(step=0, degradation=None, ranks=1, **changes):
        section = AugmentationSection(**changes)
        same = dict(patch_size=16, batch_size=24, seed=1, degradation=degradation, augmentation=section)
        parts = [Batches(pairs, **same, rank=rank, ranks=ranks)[step] for rank in range(ranks)]
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    return make


def equal(first, second):
    """Share of the patches that are equal."""
    return float((first == second).flatten(1).all(1).float().mean())


def test_the_eight_flips_and_turns_are_different():
    image = torch.arange(6).view(1, 2, 3)
    turned = [flip_and_turn(image, which).tolist() for which in range(8)]
    assert len({str(one) for one in turned}) == 8
    assert turned[0] == image.tolist()


def test_flips_and_turns_can_be_left_out(batch):
    turned, plain = batch(), batch(flips_and_turns=False)
    for image, other in zip(turned[1], plain[1], strict=True):
        assert any(torch.equal(flip_and_turn(other, which), image) for which in range(8))
    assert equal(turned[1], plain[1]) < 0.5


def test_colours_change_places_alike_in_both_images(batch):
    plain, permuted = batch(), batch(permute_colours=1.0)
    orders = set()
    for low, high, old_low, old_high in zip(*permuted, *plain, strict=True):
        order = next(o for o in itertools.permutations(range(3)) if torch.equal(old_high[list(o)], high))
        assert torch.equal(old_low[list(order)], low)
        orders.add(order)
    assert len(orders) == 6
    unchanged = [equal(batch(step, permute_colours=0.3)[0], batch(step)[0]) for step in range(8)]
    assert np.mean(unchanged) == pytest.approx(0.75, abs=0.08)  # one order in six is the old one


def test_cut_mix_pastes_the_same_rectangle_in_both_images(batch):
    plain, mixed = batch(), batch(cut_mix=1.0)
    shares = []
    for low, high, old_low, old_high in zip(*mixed, *plain, strict=True):
        changed = (high != old_high).any(0).nonzero()
        assert len(changed)
        (top, left), (bottom, right) = changed.amin(0) // 2, changed.amax(0) // 2 + 1
        shares.append(float((bottom - top) * (right - left)) / 16**2)
        outside = torch.ones(16, 16, dtype=torch.bool)
        outside[top:bottom, left:right] = False
        assert torch.equal(low[:, outside], old_low[:, outside])
        rough = resize(high, scale=1 / 2)[:, top + 2 : bottom - 2, left + 2 : right - 2]
        assert rough.numel() == 0 or (rough - low[:, top + 2 : bottom - 2, left + 2 : right - 2]).abs().max() < 0.02
    assert min(shares) < 0.2
    assert max(shares) > 0.5


def test_a_rectangle_lies_inside_and_has_every_size():
    draw = np.random.default_rng(0)
    found = [random_rectangle(3, draw) for _ in range(400)]
    spans = {(rows.start, rows.stop) for rows, _ in found} | {(columns.start, columns.stop) for _, columns in found}
    assert spans == {(0, 1), (1, 2), (2, 3), (0, 2), (1, 3), (0, 3)}


def test_paste_changes_nothing_else():
    image, other = torch.zeros(1, 6, 6), torch.ones(1, 6, 6)
    pasted = paste(image, other, (slice(0, 1), slice(1, 3)), 2)
    assert pasted.sum() == 8
    assert pasted[0, :2, 2:].sum() == 8
    assert image.sum() == 0


def test_cut_clean_makes_a_part_of_a_degraded_patch_plain(batch):
    plain, noisy, cut = batch()[0], batch(degradation=NOISY)[0], batch(degradation=NOISY, cut_clean=1.0)[0]
    clean_share = [(one == other).all(0).float().mean().item() for one, other in zip(cut, plain, strict=True)]
    noisy_share = [(one == other).all(0).float().mean().item() for one, other in zip(cut, noisy, strict=True)]
    assert np.add(clean_share, noisy_share) == pytest.approx(1, abs=0.05)
    assert min(clean_share) < 0.2
    assert max(clean_share) > 0.8
    assert torch.equal(batch(degradation=NOISY, cut_clean=1.0)[1], batch()[1])


def test_zoom_shows_the_image_at_another_size(data, tmp_path, batch):
    """Every high-res patch lies somewhere in one of the halved images, continued by their mirror images."""
    for image, same in zip(batch(zoom=(1.0, 1.0)), batch(), strict=True):
        assert torch.equal(image, same)
    low, high = batch(zoom=(0.5, 0.5), flips_and_turns=False)
    images = [image.numpy() for _, image in prepare([data / "train"], scale=2, cache=tmp_path / "cache")]
    padded = [torch.from_numpy(np.pad(image, ((0, 0), (64, 64), (64, 64)), "symmetric")) for image in images]
    halved = [resize(image, scale=0.5).float() / 255 for image in padded]
    windows = [one.unfold(1, 32, 1).unfold(2, 32, 1)[:, :, :, 4:-4, 4:-4] for one in halved]
    for patch in high[:6]:
        inner = patch[:, None, None, 4:-4, 4:-4]
        assert min((one - inner).abs().amax((0, 3, 4)).min() for one in windows) < 1e-6
    inner = resize(high, scale=1 / 2)[..., 3:-3, 3:-3]
    assert (low[..., 3:-3, 3:-3] - inner).abs().max() < 0.01
    assert equal(batch(zoom=(0.5, 1.0))[1], batch()[1]) < 0.2


@pytest.mark.parametrize("degradation", [None, NOISY])
def test_everything_on_is_still_a_function_of_seed_and_step(batch, degradation):
    changes = dict(zoom=(0.5, 1.0), permute_colours=0.5, cut_mix=0.5, cut_clean=0.5, degradation=degradation)
    first, other = batch(3, **changes), batch(4, **changes)
    for one, again, part in zip(first, batch(3, **changes), batch(3, ranks=3, **changes), strict=True):
        assert torch.equal(one, again)
        assert torch.equal(one, part)
    assert equal(first[0], other[0]) == 0
    assert float(first[0].min()) >= 0
    assert float(first[0].max()) <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.augmentation.cutmix=1"], "data.augmentation.cutmix: unknown; did you mean 'cut_mix'?"),
        (["data.augmentation.zoom=[1, 0.5]"], "expected the smaller bound first, got [1.0, 0.5]"),
        (["data.augmentation.cut_clean=0.5"], "augmentation.cut_clean needs the section data.degradation"),
        (['data.low_res=["a", "b"]'], "low_res: expected 1 folders as in train, got 2"),
        (['data.low_res=["a"]', "data.degradation.blur=1"], "given low-res images need source_scales = [1.0]"),
    ],
)
def test_a_wrong_setting_is_named(recipe_file, settings, message):
    with pytest.raises(RecipeError) as error:
        read_recipe(recipe_file, settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
