"""A folder of small images and a recipe that trains on them in seconds."""

import os
import signal
import socket
import sys
import traceback
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
        monkeypatch.setattr("nlsr.train.milestones.draw_sample", lambda *_, **__: torch.zeros(1, 3, 4, 4))
        monkeypatch.setattr("nlsr.train.milestones.draw_curve", lambda *_, **__: None)
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
    from nlsr.train.data import prepare
    from nlsr.train.devices import is_main_process
    from nlsr.train.loop import fit
    from nlsr.train.recipe import read_recipe

    def run(folder, *settings, recipe=recipe_file, resume=False, callbacks=(), **options):
        recipe = read_recipe(recipe, list(settings))
        pairs = prepare([data / "train"], scale=recipe.network.scale, source_scales=[1.0], cache=tmp_path / "cache")
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


@pytest.fixture
def child():
    """child(work, **environment) -> exit status of a copy of this process that does some work and ends; negative if a
    signal killed it. With `wait=False` a function that waits for it."""
    started = []

    def run(work, wait=True, **environment):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch has threads, none of which is needed
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.environ.update(environment)
                torch.set_num_threads(1)
                work()
                status = 0
            except SystemExit as end:
                status = end.code
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        started.append(pid)

        def finish():
            started.remove(pid)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        return finish() if wait else finish

    yield run
    for pid in started:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def ranks(child):
    """ranks(work, count) does the same work in processes that torchrun might have started; returns exit statuses."""

    def run(work, count=2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        shared = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count))
        shared |= dict(TORCHELASTIC_RUN_ID="test", GROUP_RANK="0", CUDA_VISIBLE_DEVICES="")
        waiting = [child(work, wait=False, RANK=str(i), LOCAL_RANK=str(i), **shared) for i in range(count)]
        return [finish() for finish in waiting]

    return run
