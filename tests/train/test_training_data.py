"""Training degrades and augments as the recipe says."""

import multiprocessing
from pathlib import Path

import pytest
import torch

from nlsr.train.data import DegradationSection, prepare
from nlsr.train.loop import fit as fit_recipe
from nlsr.train.recipe import read_recipe


@pytest.mark.filterwarnings("ignore:.*:FutureWarning", "ignore::UserWarning")  # Lightning's
@pytest.mark.parametrize(
    ("setting", "function"), [("degradation.blur=0.5", "degrade"), ("augmentation.cut_mix=1.0", "paste")]
)
def test_training_uses_the_sections_of_the_recipe(tmp_path, data, recipe_file, monkeypatch, setting, function):
    def called(*_, **__):
        raise ZeroDivisionError(function)

    monkeypatch.setattr(f"nlsr.train.data.batches.{function}", called)
    recipe = read_recipe(recipe_file, [f"data.{setting}"])
    pairs = prepare([data / "train"], scale=2, cache=tmp_path / "cache")
    with pytest.raises(ZeroDivisionError, match=function):
        fit_recipe(recipe, pairs, data / "valid", tmp_path, resume=False)
    assert multiprocessing.active_children() == []  # or this process would wait for them for ever


def test_the_number_of_loading_processes_changes_nothing(fit, recipe_file, monkeypatch):
    settings = ["data.degradation.blur=0.5", "data.augmentation.zoom=[0.5, 1.0]"]
    weights = []
    for cores, loaders in ((1, 1), (6, 3)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert read_recipe(recipe_file, settings).data.num_workers(1) == loaders
        assert read_recipe(recipe_file, settings).data.num_workers(8) == 1
        weights.append(fit(str(cores), *settings))
    assert all(torch.equal(one, weights[1][name]) for name, one in weights[0].items())


def test_the_sections_in_the_documentation_are_right(recipe_file):
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    sections = text.split("```toml\n")[1].split("```")[0]
    before, after = recipe_file.read_text().split("[data]")
    recipe_file.write_text(before + sections + "[training]" + after.split("[training]")[1])
    data = read_recipe(recipe_file).data
    assert data.augmentation.zoom == (0.5, 1.0)
    assert data.degradation == DegradationSection()
