"""nlsr train --check: says what a recipe would do, and what is wrong or missing, without training."""

import itertools
import re
from pathlib import Path

import pytest
from PIL import Image

from nlsr.errors import RecipeError
from nlsr.train.check import explain
from nlsr.train.recipe import read_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


def told(text, label):
    return [line[12:] for line in text.splitlines() if line[:12].strip() == label]


def test_a_recipe_is_explained(recipe_file, data, tmp_path):
    text = explain(read_recipe(recipe_file), data=data, folder=tmp_path / "run")
    parameters = sum(weight.numel() for weight in read_recipe(recipe_file).build_network().parameters())
    (network,) = told(text, "network")
    assert network.startswith(f"lcoan-light x2: {parameters:,} parameters, ")
    assert told(text, "train") == [f"{data / 'train'}: 3 images"]
    assert told(text, "validation") == [f"{data / 'valid'}: 2 images"]
    assert told(text, "patches") == ["bicubic low-res, flipped and turned"]
    assert told(text, "loss") == ["l1"]
    assert told(text, "batches") == ["4 patches of 12x12 (24x24 high-res); 6 steps, 24 patches"]
    assert told(text, "schedule") == ["in 2 steps to 0.001, then along a cosine to 0"]
    assert told(text, "optimizer")[0].startswith("Adam (0.9, 0.999), eps 1e-08, gradients no longer than 1")
    assert told(text, "run") == [f"{tmp_path / 'run'}: new"]
    (cost,) = told(text, "cost")
    assert re.fullmatch(
        r"\S+ s a step, \S+ hours in all, where nothing else runs: "
        r"measured were \S+ processor seconds a step on 1 thread here; \S+ MiB beside the data",
        cost,
    )
    assert list(tmp_path.glob("run*")) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_hours_are_those_of_the_processor_whatever_else_the_machine_does(
    recipe_file, data, tmp_path, monkeypatch, threads
):
    """A step that waits for ten seconds by the clock and computes for two on every thread takes two."""
    monkeypatch.setattr("nlsr.train.check.torch.get_num_threads", lambda: threads)
    monkeypatch.setattr("time.process_time", itertools.count(0, 2 * threads).__next__)
    monkeypatch.setattr("time.perf_counter", itertools.count(0, 10).__next__)
    monkeypatch.setattr("time.monotonic", itertools.count(0, 10).__next__)
    settings = ["training.steps=3600", "training.accumulate=2", "training.validate_every=3600"]
    text = explain(read_recipe(recipe_file, settings), data=data, folder=tmp_path / "run")
    (cost,) = told(text, "cost")
    words = (
        f"4 s a step, 4 hours in all, where nothing else runs: measured were {4 * threads} processor seconds a step on"
    )
    assert cost.startswith(words)


def test_what_changes_is_said(recipe_file, data, tmp_path):
    settings = ["training.patch_size=[[0,8],[4,12]]", "training.accumulate=2", "start=missing.safetensors"]
    settings += ["training.joined_patches=2", "training.losses={l1=1.0,frequency=0.05}", "data.train=['nowhere']"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").touch()
    text = explain(read_recipe(recipe_file, settings), data=data, folder=tmp_path / "run")
    assert told(text, "batches") == [
        "from step 0 4 patches of 8x8 (16x16 high-res); from step 4 4 patches of 12x12 (24x24 high-res), "
        "2 joined for the attention, each in 2 parts; 6 steps, 24 patches"
    ]
    assert told(text, "loss") == ["l1 + 0.05 frequency"]
    assert told(text, "train") == [f"{data / 'nowhere'}: missing in the folder of all data"]
    assert told(text, "start") == ["missing.safetensors: missing"]
    assert told(text, "run") == [f"{tmp_path / 'run'}: holds a run; continue it with `resume`"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            ["data.degradation.clean=0.2", "data.augmentation.cut_clean=0.3", "data.augmentation.cut_mix=0.1"],
            "80% degraded, the others bicubic, flipped and turned, 10% with a rectangle of another, "
            "30% of the degraded with a plain rectangle",
        ),
        (
            ["data.source_scales=[1,0.5]", "data.augmentation={flips_and_turns=false,zoom=[0.5,1],permute_colours=1}"],
            "bicubic low-res, images at sizes 1, 0.5, zoomed 0.5 to 1, 100% with colours permuted",
        ),
        (["data.low_res=['train']"], "low-res as given, flipped and turned"),
    ],
)
def test_what_is_done_to_patches_is_said(recipe_file, data, tmp_path, settings, expected):
    text = explain(read_recipe(recipe_file, settings), data=data, folder=tmp_path / "run")
    assert told(text, "patches") == [expected]
    assert told(text, "low-res") == ([f"{data / 'train'}: 3 images"] if "low_res" in settings[0] else [])


def test_a_published_recipe_is_explained_without_its_data(nlsr):
    code, out, err = nlsr("train", RECIPES / "published" / "enlcn-x2.toml", "--check")
    assert (code, err) == (0, "")
    assert told(out, "loss") == ["l1 + 0.001 attention, attention from step 101,000"]
    assert told(out, "schedule") == ["0.0001, times 0.5 at steps 200,000, 400,000, 600,000, 800,000"]
    assert told(out, "network")[0].startswith("enlcn x2: 41,2")
    assert len(told(out, "gap")) == 5
    assert "missing" in told(out, "train")[0]
    assert "too many to be measured here" in told(out, "cost")[0]


def test_a_recipe_of_ours_is_explained_without_its_teacher(nlsr, tmp_path, monkeypatch):
    monkeypatch.setenv("NLSR_CACHE", str(tmp_path))
    code, out, err = nlsr("train", RECIPES / "lcoan-light-x4.toml", "--check")
    assert (code, err) == (0, "")
    assert told(out, "teacher") == ["smfanet-plus-x4: missing; get it with: nlsr weights get smfanet-plus-x4"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [("training.stepps=3", "did you mean 'steps'?"), ("network.reduction=3", "divides 8 channels, got 3")],
)
def test_a_wrong_recipe_is_told_in_one_line_and_exits_with_2(nlsr, recipe_file, setting, message):
    code, out, err = nlsr("train", recipe_file, "--check", "--set", setting)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_what_could_not_train_is_refused(recipe_file, data, tmp_path):
    for settings, message in (
        (["start=lcoan-light-x4"], "start: lcoan-light-x4 fits in"),
        (["training.teacher=lcoan-light-x4", "training.losses={distillation=1.0}"], "enlarges by 4, expected 2"),
    ):
        with pytest.raises(RecipeError, match=message):
            explain(read_recipe(recipe_file, settings), data=data, folder=tmp_path / "run")


def test_images_are_counted_as_training_and_validation_find_them(recipe_file, data, tmp_path):
    for folder in ("train", "valid"):
        (data / folder / "inner").mkdir()
        Image.new("RGB", (60, 60)).save(data / folder / "inner" / "more.jfif", "JPEG")
        (data / folder / ".hidden.png").touch()
    text = explain(read_recipe(recipe_file), data=data, folder=tmp_path / "run")
    assert told(text, "train") == [f"{data / 'train'}: 4 images"]
    assert told(text, "validation") == [f"{data / 'valid'}: 2 images"]
