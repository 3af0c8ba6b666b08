"""Training: it learns, saves what it averaged, goes on bit for bit, and equal runs give equal weights."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

import nlsr
from nlsr.errors import RecipeError
from nlsr.train.data import Batches, prepare
from nlsr.train.loop import add_to_curve, average_decay, rate, start_from, update_average
from nlsr.train.recipe import read_recipe
from nlsr.weights.checkpoint import read_tensors


@pytest.fixture
def train(tmp_path, data, recipe_file):
    """Run `nlsr train` in a process of its own; returns the finished process or, if asked, the running one."""

    def run(output, *words, wait=True):
        code = "from nlsr.cli import main; main()"
        command = [sys.executable, "-W", "error::UserWarning:nlsr", "-c", code, "train", recipe_file, "--data", data]
        command += ["-o", tmp_path / output, "--cache", tmp_path / "cache", "--threads", "1", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if not wait:
            return process
        out, err = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return run


def weights(tmp_path, output):
    return load_file(tmp_path / output / "tiny" / "tiny.safetensors")


def assert_equal_weights(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_equal_runs_give_equal_weights_and_a_curve_and_a_card(tmp_path, train):
    finished = [train(output) for output in ("one", "two")]
    for process in finished:
        assert process.returncode == 0, process.stderr
        assert "step 6/6" in process.stderr
        assert "tiny: 6 steps, weights in" in process.stdout
    assert_equal_weights(weights(tmp_path, "one"), weights(tmp_path, "two"))
    lines = (tmp_path / "one" / "tiny" / "curve.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "2", "4", "6"]
    card = json.loads(read_tensors(tmp_path / "one" / "tiny" / "tiny.safetensors")[1]["card"])
    assert card["steps"] == 6
    assert card["psnr"]["valid"] > 5
    assert nlsr.load(tmp_path / "one" / "tiny" / "tiny.safetensors").scale == 2


@pytest.mark.parametrize(
    ("how", "words"), [(signal.SIGKILL, []), (signal.SIGINT, ["--set", "data.degradation.blur=0.9"])]
)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path, train, how, words):
    long = ["--set", "training.steps=40", *words]
    assert train("whole", *long).returncode == 0
    process = train("stopped", *long, wait=False)
    wait_for(tmp_path / "stopped" / "tiny" / "last.ckpt")
    process.send_signal(how)
    _, err = process.communicate()
    assert process.returncode != 0
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert (
            err.splitlines()[-1]
            == "train: stopped; go on from the last validation by adding --resume to the same command"
        )
    resumed = train("stopped", *long, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert_equal_weights(weights(tmp_path, "whole"), weights(tmp_path, "stopped"))
    curves = [(tmp_path / name / "tiny" / "curve.csv").read_text().splitlines() for name in ("whole", "stopped")]
    scores = [[(line.split(",")[0], line.split(",")[3]) for line in curve] for curve in curves]
    assert scores[0] == scores[1]


def wait_for(path, seconds=120):
    for _ in range(seconds * 50):
        if path.exists():
            return
        time.sleep(0.02)
    raise TimeoutError(path)


def test_a_run_is_not_overwritten_and_a_missing_one_not_resumed(tmp_path, train):
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    result = train("runs", "--resume")
    assert result.returncode == 2
    assert "no checkpoint to go on from" in result.stderr
    (tmp_path / "runs" / "tiny" / "last.ckpt").write_bytes(b"")
    result = train("runs")
    assert result.returncode == 2
    assert "go on with --resume" in result.stderr


def test_a_missing_validation_folder_is_said_before_training(tmp_path, train):
    result = train("runs", "--set", "data.validation=nowhere")
    assert result.returncode in (1, 2)
    assert "nowhere" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "runs" / "tiny" / "last.ckpt").exists()


def test_a_finished_run_that_is_resumed_gives_its_weights_again(tmp_path, train):
    assert train("runs").returncode == 0
    first = weights(tmp_path, "runs")
    again = train("runs", "--resume")
    assert again.returncode == 0, again.stderr
    assert_equal_weights(first, weights(tmp_path, "runs"))


def test_the_loss_falls_and_learned_clusters_fit_better_than_frozen_ones(tmp_path, data, recipe_file):
    """Mean cosine to the own centroid, at equal steps, with clusters that stay in use."""
    results = {}
    for learning in ("moving-average", "frozen"):
        recipe = read_recipe(recipe_file, [f"network.centroid_learning={learning}", "network.centroid_decay=0.9"])
        network = recipe.build_network()
        pairs = prepare([data / "train"], scale=2, source_scales=[1.0], cache=tmp_path / "cache")
        batches = Batches(pairs, patch_size=16, batch_size=4, seed=0)
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        losses = []
        for step in range(80):
            low, high = batches[step]
            trace = network.trace(low)
            loss = (trace.upscaled - high).abs().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            network.learn(trace, generator=torch.Generator().manual_seed(step))
            losses.append(loss.item())
        (affinity,) = network.trace(batches[1000][0]).affinities
        directions = torch.nn.functional.normalize(affinity.embedding.detach().flatten(0, 1), dim=-1)
        centroids = torch.nn.functional.normalize(network.operators()[0].kmeans.centroids[0], dim=-1)
        share = torch.bincount(affinity.codes.flatten(), minlength=8) / affinity.codes.numel()
        entropy = -(share * share.clamp_min(1e-12).log()).sum().item()
        results[learning] = (directions @ centroids.T).amax(-1).mean().item(), entropy
        assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert results["moving-average"][0] > results["frozen"][0]
    assert results["moving-average"][1] >= 0.8 * math.log(8)


def test_the_rate_warms_up_and_falls_along_a_cosine(recipe_file):
    recipe = read_recipe(recipe_file, ["training.steps=102", "training.warmup_steps=2", "training.final_rate=0.1"])
    rates = [rate(step, recipe) for step in range(103)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[52] == pytest.approx(0.55)
    assert rates[102] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[2:]))


def test_the_average_follows_the_network_and_copies_its_buffers(recipe_file):
    recipe = read_recipe(recipe_file)
    average, network = recipe.build_network(), recipe.build_network()
    with torch.no_grad():
        network.head.bias.fill_(1.0)
        average.head.bias.fill_(0.0)
        network.operators()[0].kmeans.centroids.fill_(7)
    update_average(average, network, 0.75)
    assert torch.allclose(average.head.bias, torch.full_like(average.head.bias, 0.25))
    assert (average.operators()[0].kmeans.centroids == 7).all()
    assert average_decay(0, recipe) == 0.1
    assert average_decay(10**6, recipe) == 0.9


def test_a_curve_is_written_again_from_where_a_run_goes_on(tmp_path):
    curve = tmp_path / "curve.csv"
    for step in (2, 4, 6, 4):
        add_to_curve(curve, step, f"{step},x")
    assert curve.read_text().split() == ["step,hours,loss,psnr", "2,x", "4,x"]
    assert os.listdir(tmp_path) == ["curve.csv"]


def test_training_starts_from_the_weights_that_fit(recipe_file):
    other = read_recipe(recipe_file, ["network.scale=4", "seed=8"]).build_network()
    network = read_recipe(recipe_file).build_network()
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    nlsr.save_network(recipe_file.with_name("other.safetensors"), other)
    start_from(network, str(recipe_file.with_name("other.safetensors")))
    for name, tensor in network.state_dict().items():
        expected = fresh if name.startswith("upsample") else other.state_dict()
        assert torch.equal(tensor, expected[name]), name


def test_weights_of_another_network_are_no_start(recipe_file):
    network = read_recipe(recipe_file).build_network()
    with pytest.raises(RecipeError, match=r"start: lcoan-light-x4 fits in \d+ of \d+ tensors"):
        start_from(network, "lcoan-light-x4")
