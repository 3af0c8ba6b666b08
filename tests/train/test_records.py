"""What a training leaves to look at: a table, pictures, TensorBoard's log, the best weights."""

import os

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image

import nlsr
from nlsr.evaluate import evaluate
from nlsr.train.module import upscale_with
from nlsr.train.records import Log, add_to_curve, plot_curve, read_curve


def test_a_run_leaves_a_curve_samples_and_a_log(tmp_path, fit, pictures):
    fit("run", "training.validate_every=3")
    rows = read_curve(tmp_path / "run" / "curve.csv")
    assert [row["step"] for row in rows] == ["3", "6"]
    names = "step hours loss psnr rate gradient_norm steps_per_second cluster_cosine cluster_entropy"
    assert list(rows[0]) == names.split()
    assert 0 < float(rows[-1]["gradient_norm"]) < 10
    assert float(rows[-1]["steps_per_second"]) > 0
    assert 0 < float(rows[-1]["cluster_cosine"]) <= 1
    assert 0 < float(rows[-1]["cluster_entropy"]) <= 1
    assert float(rows[0]["rate"]) == pytest.approx(1e-3)  # of the third step: the second of the warm-up has 1
    for name in ("curve.png", "samples/step-0000003.png", "samples/step-0000006.png"):
        with Image.open(tmp_path / "run" / name) as picture:
            assert np.asarray(picture).std() > 1
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_the_curve_of_a_network_without_clusters_has_no_columns_for_them(tmp_path, fit):
    fit("run", "network.operator=none", "training.steps=3")
    assert list(read_curve(tmp_path / "run" / "curve.csv")[0])[-1] == "steps_per_second"


def test_the_best_weights_are_those_of_the_best_row_of_the_curve(tmp_path, fit):

    class Spoilt(Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            if trainer.global_step == 4:
                with torch.no_grad():
                    for weight in module.network.parameters():
                        weight.mul_(3)

    fit("run", "training.average_decay=0", callbacks=[Spoilt()])
    rows = read_curve(tmp_path / "run" / "curve.csv")
    best = max(float(row["psnr"]) for row in rows)
    assert best > float(rows[-1]["psnr"]) + 0.01
    network = nlsr.load(tmp_path / "run" / "best.safetensors")
    score = evaluate(upscale_with(network), tmp_path / "data" / "valid", scale=2).mean.psnr
    assert score == pytest.approx(best, abs=1e-3)


def test_the_best_weights_can_be_left_out(tmp_path, fit):
    fit("run", "training.keep_best=false", "training.steps=3")
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_a_curve_is_written_again_from_where_a_run_goes_on(tmp_path):
    curve = tmp_path / "curve.csv"
    for step, psnr in ((2, "1"), (4, "2"), (6, "3"), (4, "9")):
        add_to_curve(curve, {"step": str(step), "psnr": psnr})
    assert curve.read_text().split() == ["step,psnr", "2,1", "4,9"]
    assert os.listdir(tmp_path) == ["curve.csv"]


def test_without_matplotlib_and_tensorboard_nothing_is_drawn_and_nothing_fails(tmp_path):
    add_to_curve(tmp_path / "curve.csv", {"step": "1", "psnr": "2", "loss": "3"})
    assert plot_curve(tmp_path, title="run") is None
    log = Log(tmp_path, 0)
    log.numbers(1, {"loss": 1.0})
    log.close()
    assert os.listdir(tmp_path) == ["curve.csv"]


def test_a_log_that_goes_on_drops_what_comes_again(tmp_path, pictures):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, steps in ((0, (1, 2, 3, 4)), (2, (3,))):
        log = Log(tmp_path, first)
        for step in steps:
            log.numbers(step, {"loss": float(10 * first + step)})
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 23.0)]
