"""A folder of small images and a recipe that trains on them in seconds."""

import numpy as np
import pytest
from PIL import Image

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
window_size = 16
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
