"""Groups of processes that torchrun starts, as on several machines: each has its own working folder."""

import os
import re
import socket
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import run as launcher

from nlsr.train.course import Course
from nlsr.train.recipe import Recipe

IN_DOUBLE = """
from nlsr.train.course import Course
from nlsr.train.recipe import Recipe
build, item = Recipe.build_network, Course.__getitem__
Recipe.build_network = lambda self: build(self).double()
Course.__getitem__ = lambda self, number: [part.double() for part in item(self, number)]
"""
DIES = """
import os, signal
from nlsr.train.module import Training
step = Training.training_step
def dying(self, *arguments):
    if self.global_step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *arguments)
Training.training_step = dying
"""


@pytest.fixture(autouse=True)
def in_double(monkeypatch):
    """Everything in float64, so that what differs is not rounding."""
    build, item = Recipe.build_network, Course.__getitem__
    monkeypatch.setattr(Recipe, "build_network", lambda self: build(self).double())
    monkeypatch.setattr(Course, "__getitem__", lambda self, number: [part.double() for part in item(self, number)])


@pytest.fixture
def two_groups(tmp_path, data, recipe_file, child):
    """two_groups(folder, second=...) -> the exit codes and the words of two groups of a process each, which train by
    the tiny recipe; the second one runs some code first. torchrun itself runs in copies of this process."""

    def run(folder, second=""):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        waiting = []
        for rank, module in enumerate((IN_DOUBLE, IN_DOUBLE + second)):
            own = tmp_path / f"{folder}-node{rank}"
            own.mkdir()
            (own / "changes.py").write_text(module)
            launch = ["--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(rank)]
            launch += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
            train = ["train", recipe_file, "--data", data, "-o", tmp_path / folder, "--cache", own / "cache"]
            train += ["--threads", "1", "--import", "changes"]
            work = partial(torchrun, own, [*launch, "-m", "nlsr", *map(str, train)])
            waiting.append(child(work, wait=False, CUDA_VISIBLE_DEVICES=""))
        codes = [finish() for finish in waiting]
        return codes, [(tmp_path / f"{folder}-node{rank}" / "told").read_text() for rank in (0, 1)]

    return run


def torchrun(own, words):
    """In a folder, in which a file takes what is said on standard error."""
    os.chdir(own)
    os.dup2(os.open("told", os.O_WRONLY | os.O_CREAT), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    launcher.main(words)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, rtol=0, atol=1e-7, msg=name)


def test_two_groups_train_as_one_process_and_lose_nothing_when_one_is_killed(tmp_path, two_groups, fit):
    """The second is killed in the sixth step; one process continues from the fourth."""
    whole = fit("whole")
    codes, told = two_groups("runs")
    assert codes == [0, 0], told
    assert_equal(load_file(tmp_path / "runs" / "tiny" / "tiny.safetensors"), whole)

    codes, told = two_groups("killed", second=DIES)
    assert codes == [1, 1], told
    assert re.search(r"^train: another process of this training has ended.*--resume", told[0], re.MULTILINE), told[0]
    assert not (tmp_path / "killed" / "tiny" / "tiny.safetensors").exists()
    assert_equal(fit("killed/tiny", resume=True), whole)
