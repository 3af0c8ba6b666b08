"""A teacher's enlargements: made once, kept whole or not at all, cut at the places of the patches."""

import pickle
import resource

import numpy as np
import pytest
import torch
from PIL import Image
from tests.train.conftest import pattern

import nlsr
from nlsr.errors import ImageError, RecipeError
from nlsr.networks import PAN, PANConfig
from nlsr.train.data import Batches, prepare, teach
from nlsr.train.data import taught as taught_module
from nlsr.train.recipe import read_recipe


def network(seed=0):
    torch.manual_seed(seed)
    return PAN(PANConfig(2, channels=8, upsampler_channels=4, num_blocks=1)).eval()


@pytest.fixture
def answered(data, tmp_path):
    """answered(teacher) -> pairs with its answers."""

    def run(teacher):
        pairs = prepare([data / "train"], scale=2, source_scales=(1.0, 0.5), cache=tmp_path / "cache")
        return teach(pairs, teacher, cache=tmp_path / "cache")

    return run


@pytest.fixture
def asked(monkeypatch):
    """The images that a teacher was asked for."""
    names, make = [], taught_module._make
    monkeypatch.setattr(
        taught_module, "_make", lambda file, entry, up: names.append(entry.path.name) or make(file, entry, up)
    )
    return names


def test_targets_are_what_the_teacher_makes_of_each_low_res_image(answered):
    teacher = network()
    pairs = answered(teacher)
    assert len(pairs) == 6
    for index, (low, high) in enumerate(pairs):
        with torch.inference_mode():
            expected = teacher(low[None].float() / 255)[0].clamp(0, 1) * 255
        assert pairs.taught(index).shape == high.shape
        assert (pairs.taught(index).float() - expected).abs().max() <= 3  # bf16 where processors are made for it


def test_a_teacher_is_asked_once_and_again_only_for_what_changed(answered, asked, data, tmp_path):
    answered(network())
    assert asked == ["0.png", "1.png", "2.png"]
    answered(network())
    assert len(asked) == 3
    Image.fromarray(pattern(99)).save(data / "train" / "1.png")
    answered(network())
    assert asked[3:] == ["1.png"]
    answered(network(seed=1))
    assert asked[4:] == ["0.png", "1.png", "2.png"]
    answered(network())
    assert len(asked) == 7  # those of the first teacher are still there


@pytest.mark.parametrize("damage", ["cut", "pixels", "missing"])
def test_a_damaged_file_is_noticed_and_made_again(answered, asked, damage):
    pairs = answered(network())
    expected = [pairs.taught(index).clone() for index in range(len(pairs))]
    file = pairs.entries[1].taught
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.unlink()
    if damage != "missing":
        file.write_bytes(content if damage == "pixels" else content[:-50])
    asked.clear()
    pairs = answered(network())
    assert asked == ["1.png"]
    assert all(torch.equal(pairs.taught(index), expected[index]) for index in range(len(pairs)))


def test_a_full_disk_keeps_what_is_there_and_says_so(answered, asked, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))  # the pairs fit, the answers do not
    try:
        prepared = prepare([tmp_path / "data" / "train"], scale=2, cache=tmp_path / "cache")
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
        with pytest.raises(ImageError, match=r"the teacher's enlargements cannot be written .*; 0 of 3 are there"):
            teach(prepared, network(), cache=tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "cache" / "taught").iterdir()) == []
    asked.clear()
    answered(network())
    assert asked == ["0.png", "1.png", "2.png"]


def test_patches_are_cut_flipped_mixed_and_coloured_like_the_high_res_ones(answered):
    """With a teacher that knows the truth, the two are equal in every batch."""
    pairs = answered(network())
    truth = pickle.loads(pickle.dumps(pairs))  # as another process gets them
    truth.taught = lambda index: truth[index][1]
    plain = dict(patch_size=12, batch_size=4, seed=5)
    for changes in ({}, {"cut_mix": 1.0}, {"permute_colours": 1.0}, {"flips_and_turns": False}):
        batches = Batches(truth, **plain, augmentation=taught_augmentation(**changes))
        for step in range(3):
            low, high, taught = batches[step]
            assert low.shape == (4, 3, 12, 12)
            assert torch.equal(high, taught), changes
            assert not np.array_equal(batches[step][1], batches[step + 1][1])


def taught_augmentation(**changes):
    from nlsr.train.data import AugmentationSection

    return AugmentationSection(**changes)


def test_degraded_patches_have_the_answer_for_the_plain_image(answered):
    from nlsr.train.data import DegradationSection

    truth = answered(network())
    truth.taught = lambda index: truth[index][1]
    batches = Batches(truth, patch_size=12, batch_size=4, seed=5, degradation=DegradationSection())
    _, high, taught = batches[0]
    assert torch.equal(high, taught)


def test_a_recipe_with_zoom_has_no_answers(recipe_file):
    settings = ["training.teacher=x", "training.losses={distillation=1.0}", "data.augmentation={zoom=[0.5,1.0]}"]
    with pytest.raises(RecipeError, match=r"leave out data\.augmentation\.zoom"):
        read_recipe(recipe_file, settings)


def test_a_run_is_not_resumed_with_another_teacher_of_the_same_name(fit, tmp_path):
    nlsr.save_network(tmp_path / "teacher.safetensors", network())
    settings = [f"training.teacher='{tmp_path / 'teacher.safetensors'}'", "training.losses={l1=0.5,distillation=0.5}"]
    fit("run", *settings)
    nlsr.save_network(tmp_path / "teacher.safetensors", network(seed=1))
    with pytest.raises(RecipeError, match="weights of the teacher"):
        fit("run", *settings, resume=True)
