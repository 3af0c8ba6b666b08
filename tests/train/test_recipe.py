"""Recipes: wrong keys are named with the nearest right one; the recipes of the repository can be read."""

import sys
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import Callback
from torch._subclasses.fake_tensor import FakeTensorMode

from nlsr.errors import RecipeError
from nlsr.networks import PRESETS
from nlsr.train.recipe import Recipe, read_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))
SMOKE = [path for path in RECIPES if path.parent.name == "smoke"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_recipe_of_the_repository_builds_its_network(path):
    recipe = read_recipe(path)
    assert recipe.name == ("smoke-" if path in SMOKE else "") + path.stem
    with FakeTensorMode():  # 70 million weights that nobody looks at
        assert recipe.build_network().scale == recipe.network.scale


def test_published_recipes_say_what_they_do_not_know_and_follow_published_sizes():
    for path in RECIPES:
        recipe = read_recipe(path)
        if path.parent.name == "published":
            assert recipe.gaps
            own = set(recipe.network.model_extra) - {"centroid_learning"}
            assert not own, f"{path}: {own}"


class EveryParameterIsUsed(Callback):
    """Distributed training waits for the gradient of each."""

    def on_after_backward(self, trainer, module):
        unused = [name for name, weight in module.network.named_parameters() if weight.grad is None]
        assert not unused


def test_every_preset_has_a_smoke_recipe_and_each_of_them_trains(tmp_path, fit, data):
    """Two steps of each at tiny size: loss, gradients, validation and checkpoint of every network."""
    assert {path.stem for path in SMOKE} == PRESETS.keys()
    for path in SMOKE:
        if path.stem == "glan":  # another name of dlsn
            continue
        settings = ["training.steps=2", "training.warmup_steps=1", "training.patch_size=8", "training.batch_size=2"]
        settings += ["training.validate_every=2", "training.keep_best=false", "data.train=['train']"]
        if path.stem == "enlcn":
            settings += ["training.losses.attention_after=1", "training.redraw_every=1"]
        weights = fit(f"smoke-{path.stem}", *settings, recipe=path, callbacks=[EveryParameterIsUsed()])
        assert all(tensor.isfinite().all() for tensor in weights.values()), path.stem


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
        ("steps", "steps: expected section.key=value"),
        ("training.losses.l11=1", "training.losses.l11: unknown; did you mean 'l1'?"),
        ("training.patch_size=0", "training.patch_size: expected a whole number above zero or [[first step, number]"),
        ("training.patch_size=[[0,8],[3]]", "training.patch_size: expected a whole number above zero or [[first"),
        (
            "training.patch_size=[[1,8]]",
            "patch_size: expected [[0, ...], [a later step, ...], ...], got first steps [1]",
        ),
        ("training.batch_size=[[0,8],[0,4]]", "batch_size: expected [[0, ...], [a later step"),
        ("training.batch_size=[[0,8],[6,4]]", "batch_size: a change at step 6 never comes in 6 steps"),
        ("training.accumulate=3", "batch_size: 4 patches cannot be computed in 3 equal parts (accumulate)"),
        ("training.joined_patches=3", "batch_size: 4 patches cannot be computed in 1 equal parts (accumulate) of mult"),
        ("training.warmup_steps=6", "warmup_steps: 6 of 6 steps leave none to train in"),
        ("training.factor=0.3", 'factor: belongs to schedule = "multistep", not to "cosine"'),
        ("training.schedule=multistep", "milestones: expected rising steps below 6, got []"),
        ("training.weight_decay=0.1", "weight_decay: is no decay in adam"),
        ("training={optimizer='muon',weight_decay=0.1,steps=6}", "weight_decay: muon has none"),
        ("training.optimizer=schedule-free", 'schedule: schedule-free needs "constant", got "cosine"'),
        ("training.optimizer=schedule-free", "average_decay: schedule-free averages the weights itself and needs 0"),
        ("training.teacher=lcoan-light-x4", "teacher: and losses.distillation above zero need each other"),
        ("network.channels=-8", "network.channels: expected a whole number above zero, got -8"),
        ("network.chunk_size=wide", "network.chunk_size: expected a valid integer"),
        ("network.chunk_size=64.5", "network.chunk_size: expected a valid integer"),
        ("network.operator=none-such", "network.operator: expected one of kmeans, hash, "),
        ("training.betas=[1.5,0.9]", "training.betas.0: Input should be less than 1"),
        ("training.gradient_clip=inf", "training.gradient_clip: Input should be a finite number"),
        ("seed=-1", "seed: Input should be greater than or equal to 0"),
        ("name=best", "name: best.safetensors holds the weights of the best validation"),
        ("training.optimizer=sgd", "training.optimizer: Input should be 'adam', 'adamw', 'muon' or 'schedule-free'"),
    ],
)
def test_a_wrong_setting_is_named(recipe_file, setting, message):
    with pytest.raises(RecipeError) as error:
        read_recipe(recipe_file, [setting])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_patches_are_not_joined_by_half(recipe_file):
    settings = ["network={preset='csnln',scale=2,channels=8,recurrences=1}", "training.joined_patches=2"]
    with pytest.raises(RecipeError, match="joined_patches: the cross-scale attention of csnln stays within a patch"):
        read_recipe(recipe_file, settings).build_network()


def test_a_truth_value_in_pythons_spelling_is_no_text_that_counts_as_true(recipe_file):
    assert read_recipe(recipe_file, ["network.share=False"]).network.config().share is False


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


def test_values_that_contradict_each_other_are_all_named_at_once(recipe_file):
    with pytest.raises(RecipeError) as error:
        read_recipe(recipe_file, ["training.schedule=constant", "training.cycles=2", "training.milestones=[3]"])
    assert "cycles: belongs to" in str(error.value)
    assert "milestones: belongs to" in str(error.value)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_recipe_that_was_written_down_is_read_again(path):
    """Checkpoints and cards hold recipes with all their defaults."""
    recipe = read_recipe(path)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_stages_join_the_steps_of_patches_and_batches(recipe_file):
    settings = ["training.patch_size=[[0,8],[3,12]]", "training.batch_size=[[0,8],[2,4]]"]
    assert read_recipe(recipe_file, settings).training.stages == [(0, 8, 8), (2, 8, 4), (3, 12, 4)]
    assert read_recipe(recipe_file).training.stages == [(0, 12, 4)]


def test_the_documentation_lists_every_key_with_its_default():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from recipe_keys import BEGIN, END, table
    finally:
        sys.path.pop(0)
    text = (ROOT / "docs" / "training.md").read_text()
    assert text[text.index(BEGIN) : text.index(END)] == BEGIN + table(), "run: python docs/recipe_keys.py"


def test_a_key_that_the_network_has_no_attention_for_is_refused(recipe_file):
    network = "network={preset='pan',scale=2}"
    for key in ("joined_patches=2", "redraw_every=2", "losses={l1=1.0,attention=0.1}"):
        with pytest.raises(RecipeError, match=rf"training\.{key[:6]}.*remove it"):
            read_recipe(recipe_file, [network, f"training.{key}"]).build_network()
    read_recipe(recipe_file, ["network.operator=none", "training.joined_patches=2"]).build_network()
