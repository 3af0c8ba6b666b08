"""A folder of small images and a recipe that trains on them in seconds."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

RECIPE = """
name = "tiny"
seed = 3
[network]
preset = "lcoan-light"
scale = 2
channels = 8
num_groups = 2
num_blocks = 1
reduction = 2
num_clusters = 8
chunk_size = 16
[data]
train = ["train"]
validation = "valid"
[training]
steps = 6
batch_size = 4
patch_size = 12
learning_rate = 1e-3
warmup_steps = 2
gradient_clip = 1.0
average_decay = 0.9
precision = "fp32"
validate_every = 2
"""


def pattern(seed, height=64, width=80):
    """Smooth waves with a few sharp edges."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x * draw.uniform(0.1, 0.9) + y * draw.uniform(0.1, 0.9) + draw.uniform(0, 6)) for _ in range(3)]
    image = 128 + 60 * np.stack(waves, -1) + 50 * (x > draw.integers(width))[..., None]
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def one_thread():
    """Equal numbers of threads give equal weights; and a copy of a process has one thread only."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pictures():
    """For tests that look at what a run draws."""


@pytest.fixture(autouse=True)
def without_pictures(request, monkeypatch):
    """Drawing takes longer than training these networks."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr("nlsr.train.milestones.sample_sheet", lambda *_, **__: torch.zeros(1, 3, 4, 4))
        monkeypatch.setattr("nlsr.train.milestones.plot_curve", lambda *_, **__: None)
        monkeypatch.setattr("nlsr.train.records.find_spec", lambda name: None)


@pytest.fixture
def data(tmp_path):
    """A data folder with `train` and `valid`."""
    for folder, seeds in (("train", range(3)), ("valid", range(10, 12))):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for seed in seeds:
            Image.fromarray(pattern(seed)).save(tmp_path / "data" / folder / f"{seed}.png")
    return tmp_path / "data"


@pytest.fixture
def recipe_file(tmp_path):
    (tmp_path / "tiny.toml").write_text(RECIPE)
    return tmp_path / "tiny.toml"


@pytest.fixture
def fit(tmp_path, data, recipe_file):
    """fit(folder, *settings, ...) trains in this process by the changed tiny recipe or another; returns the weights."""
    from nlsr.cli.training_progress import quiet
    from nlsr.train.data import prepare, teach
    from nlsr.train.devices import is_main_process
    from nlsr.train.loop import fit
    from nlsr.train.recipe import read_recipe
    from nlsr.train.start import load_teacher

    def run(folder, *settings, recipe=recipe_file, resume=False, callbacks=(), **options):
        recipe = read_recipe(recipe, list(settings))
        pairs = prepare([data / "train"], scale=recipe.network.scale, source_scales=[1.0], cache=tmp_path / "cache")
        if recipe.training.teacher is not None:
            pairs = teach(pairs, load_teacher(recipe), cache=tmp_path / "cache")
        (tmp_path / folder).mkdir(exist_ok=True)
        with warnings.catch_warnings():
            quiet()
            path = fit(
                recipe,
                pairs,
                data / "valid",
                tmp_path / folder,
                resume=resume,
                callbacks=list(callbacks),
                **options,
            )
        return load_file(path) if is_main_process() else None

    return run
