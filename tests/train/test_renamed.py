"""What was begun under other names still works: recipes, checkpoints and weight files of before.

`begun` holds checkpoints of step 4 of 6 and the weights of the end, of the tiny recipe (with `window_size`) and of its
ENLCN with a contrastive loss, made by the version before `chunk_size` and `losses.attention`.
"""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import nlsr
from nlsr.errors import RecipeError
from nlsr.train.recipe import read_recipe

BEGUN = Path(__file__).with_name("begun")
KINDS = {
    "lcoan": ["network.balanced=false"],  # as the preset was
    "enlcn": [
        "network={preset='enlcn',scale=2,channels=8,num_blocks=1,num_features=16}",
        "training.losses={l1=1.0,contrastive=0.1,contrastive_after=2}",
        "training.redraw_every=2",
    ],
}
TODAY = {"lcoan": KINDS["lcoan"], "enlcn": [setting.replace("contrastive", "attention") for setting in KINDS["enlcn"]]}


@pytest.fixture
def old_recipe(recipe_file):
    recipe_file.write_text(recipe_file.read_text().replace("chunk_size", "window_size"))
    return recipe_file


@pytest.mark.parametrize("settings", [KINDS, TODAY], ids=["old names", "names of today"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_before_is_resumed_and_ends_where_it_would_have_ended(fit, tmp_path, kind, settings):
    (tmp_path / "run").mkdir()
    shutil.copy(BEGUN / f"{kind}.ckpt", tmp_path / "run" / "last.ckpt")
    resumed = fit("run", *settings[kind], resume=True)
    finished = load_file(BEGUN / f"{kind}.safetensors")
    assert resumed.keys() == finished.keys()
    for name, tensor in finished.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    begun = torch.load(BEGUN / f"{kind}.ckpt", weights_only=True)["state_dict"]
    assert any(not torch.equal(begun[f"network.{name}"], tensor) for name, tensor in resumed.items())


def test_a_recipe_with_old_names_is_the_recipe_with_those_of_today(old_recipe, recipe_file):
    old = read_recipe(old_recipe, KINDS["enlcn"][1:])
    recipe_file.write_text(recipe_file.read_text().replace("window_size", "chunk_size"))
    assert old == read_recipe(recipe_file, TODAY["enlcn"][1:])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("network.chunk_size=16", "window_size is called chunk_size today"),
        ("training.losses={l1=1.0,contrastive=1.0,attention=1.0}", "contrastive is called attention today"),
    ],
)
def test_a_value_under_both_names_is_refused(old_recipe, setting, message):
    with pytest.raises(RecipeError, match=message):
        read_recipe(old_recipe, [setting])


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_file_of_before_is_loaded(kind):
    network = nlsr.load(BEGUN / f"{kind}.safetensors")
    assert getattr(network.config, "chunk_size", 16) == 16
