"""Recipes: wrong keys are named with the nearest right one; the recipes of the repository can be read."""

from pathlib import Path

import pytest

from nlsr.errors import RecipeError
from nlsr.train.recipe import read_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_repository_builds_its_network(path):
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert recipe.build_network().scale == recipe.network.scale


def test_settings_change_a_recipe(recipe_file):
    recipe = read_recipe(recipe_file, ["training.steps=9", "network.operator=none", 'data.train=["a", "b"]'])
    assert recipe.training.steps == 9
    assert recipe.network.config().operator == "none"
    assert recipe.data.train == ["a", "b"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.learning_rat=1", "training.learning_rat: unknown; did you mean 'learning_rate'?"),
        ("network.chanels=8", "network.chanels: unknown; did you mean 'channels'?"),
        ("network.preset=edsr", "network.preset: expected one of asid"),
        ("network.scale=5", "network.scale: Input should be 2, 3 or 4"),
        ("training.steps=0", "training.steps: Input should be greater than 0"),
        ("training.steps=many", "training.steps: Input should be a valid integer"),
        ("sed=1", "sed: unknown; did you mean 'seed'?"),
        ("name.x=1", "'name' is not a section"),
        ("steps", "--set steps: expected section.key=value"),
    ],
)
def test_a_wrong_setting_is_named(recipe_file, setting, message):
    with pytest.raises(RecipeError) as error:
        read_recipe(recipe_file, [setting])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_sizes_that_do_not_fit_are_named(recipe_file):
    with pytest.raises(RecipeError, match="divides 8 channels, got 3"):
        read_recipe(recipe_file, ["network.reduction=3"]).build_network()


@pytest.mark.parametrize(("content", "message"), [("a = [", "not a TOML file"), ("\xff", "name: Field required")])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content, message):
    (tmp_path / "r.toml").write_text("" if content == "\xff" else content)
    with pytest.raises(RecipeError, match=message):
        read_recipe(tmp_path / "r.toml")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"no\.toml: cannot be read \(No such file"):
        read_recipe(tmp_path / "no.toml")
