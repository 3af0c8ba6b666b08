"""Pairs in the memory of a device: patches cut there are those that processors cut."""

import pytest
import torch

import nlsr
from nlsr.train import module
from nlsr.train.data import Batches, Resident, fits, prepare, teach

CPU = torch.device("cpu")


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("places", [1, 5])
def test_patches_are_those_cut_of_files(data, tmp_path, taught, places):
    pairs = prepare([data / "train"], scale=2, cache=tmp_path, source_scales=[1.0, 0.5])
    if taught:
        pairs = teach(pairs, nlsr.create("lcoan-light", scale=2), cache=tmp_path)
    batches = Batches(pairs, patch_size=9, batch_size=16, seed=5, most_detailed_of=places)
    resident = Resident(pairs, CPU)
    turns = set()
    for step in range(3):
        expected = batches[step]
        cut = resident.cut(batches.places(step), 9)
        assert len(cut) == len(expected) == 2 + taught
        for patch, other in zip(cut, expected, strict=True):
            torch.testing.assert_close(patch, other, rtol=0, atol=0)
        turns |= set(batches.places(step).turns.tolist())
    assert turns == set(range(8))


def test_a_training_learns_the_same_from_them(fit, monkeypatch):
    asked = []
    expected = fit("files", "data.most_detailed_of=3", "training.patch_size=[[0,12],[3,16]]")
    monkeypatch.setattr(module, "fits", lambda pairs, device: not asked.append(device))
    found = fit("resident", "data.most_detailed_of=3", "training.patch_size=[[0,12],[3,16]]")
    assert asked == [CPU]
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def test_patches_that_are_changed_are_cut_by_processors(fit, monkeypatch):
    monkeypatch.setattr(module, "fits", lambda pairs, device: pytest.fail("was asked"))
    for change in ("cut_mix=0.5", "permute_colours=0.5", "zoom=[0.5,1.0]"):
        fit(change[:3], f"data.augmentation.{change}", "training.steps=1", "training.warmup_steps=0")


def test_only_an_accelerator_with_room_takes_them(data, tmp_path, monkeypatch):
    pairs = prepare([data / "train"], scale=2, cache=tmp_path)
    taken = 3 * 5 * sum(height * width for height, width in pairs.sizes)
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * taken, 4 * taken))
    assert fits(pairs, cuda)
    assert not fits(pairs, CPU)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * taken - 1, 4 * taken))
    assert not fits(pairs, cuda)
