"""Resuming: after any end, bit for bit; another run's checkpoint is refused; nothing that was saved is lost."""

import json
import os
import resource
import signal
import threading

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file

import nlsr
from nlsr.cli.training_progress import quiet
from nlsr.errors import CheckpointError, Interrupted, RecipeError, TrainingError
from nlsr.train.recipe import read_recipe
from nlsr.train.records import Log, read_curve
from nlsr.weights.checkpoint import read_tensors

FREE = [
    "training.optimizer=schedule-free",
    "training.schedule=constant",
    "training.average_decay=0",
    "training.weight_decay=0.1",
]
KINDS = {
    "average, clusters": [],
    "schedule-free": FREE,
    "parts, growing patches": ["training.accumulate=2", "training.patch_size=[[0,8],[3,12]]"],
    "degraded": ["data.degradation.blur=0.9"],
    "hash draws": ["network={preset='nlsn',scale=2,channels=8,num_blocks=1,chunk_size=16}"],
    "drawn again": [
        "network={preset='enlcn',scale=2,channels=8,num_blocks=1,num_features=16}",
        "training.losses={l1=1.0,attention=0.1,attention_after=2}",
        "training.redraw_every=2",
        "training.optimizer=adamw",
    ],
}


class At(Callback):
    """Does something at a moment of a step: before it, in its backward, or after all that belongs to it."""

    def __init__(self, step, moment, action):
        self.step, self.moment, self.action = step, moment, action

    def _now(self, trainer, moment):
        if trainer.global_step == self.step and moment == self.moment:
            self.step = None  # once, whatever the parts of a step
            self.action()

    def on_train_batch_start(self, trainer, *_):
        self._now(trainer, "before")

    def on_after_backward(self, trainer, *_):
        self._now(trainer, "backward")

    def on_train_batch_end(self, trainer, *_):
        self._now(trainer, "after")


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def assert_same_run(tmp_path, first, second):
    """Curves without times, and the weights of all checkpoints and files."""
    curves = [read_curve(tmp_path / run / "curve.csv") for run in (first, second)]
    for one, other in zip(*curves, strict=True):
        for name in one.keys() - {"hours", "steps_per_second"}:
            assert one[name] == other[name], (one["step"], name)
    states = [torch.load(tmp_path / run / "last.ckpt", weights_only=True)["state_dict"] for run in (first, second)]
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]), name
    for file in ("best.safetensors", "tiny.safetensors"):
        one, other = (load_file(tmp_path / run / file) for run in (first, second))
        assert all(torch.equal(one[name], other[name]) for name in one), file


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, fit, child, settings):
    whole = fit("whole", *settings)
    moments = [(3, "backward")] if settings else [(2, "before"), (3, "backward"), (5, "before")]
    for index, (step, moment) in enumerate(moments):
        run = f"killed{index}"
        at = At(step, moment, kill)
        status = child(lambda run=run, at=at: fit(run, *settings, callbacks=[at]))
        assert status == -signal.SIGKILL
        assert not (tmp_path / run / "tiny.safetensors").exists()
        resumed = fit(run, *settings, resume=True)
        for name in whole:
            assert torch.equal(whole[name], resumed[name]), name
        assert_same_run(tmp_path, "whole", run)


def test_a_run_killed_while_it_writes_its_checkpoint_keeps_the_former_one(tmp_path, fit, child, monkeypatch):
    whole = fit("whole")

    def train():
        replace, seen = os.replace, []

        def dying(source, target):
            if str(target).endswith("last.ckpt"):
                seen.append(target)
                if len(seen) == 2:
                    kill()
            replace(source, target)

        os.replace = dying
        fit("killed")

    assert child(train) == -signal.SIGKILL
    resumed = fit("killed", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("settings", [[], ["training.accumulate=2"], FREE], ids=["plain", "parts", "schedule-free"])
def test_an_interrupted_run_saves_the_step_in_hand_and_twice_interrupted_loses_nothing(tmp_path, fit, settings):
    whole = fit("whole", *settings)
    for resume, step in ((False, 3), (True, 4)):
        with pytest.raises(Interrupted) as error:
            fit("stopped", *settings, resume=resume, callbacks=[At(step - 1, "backward", interrupt)])
        assert str(error.value) == (
            f"stopped; step {step} is saved, continue from it by adding `resume` to the same command"
        )
    resumed = fit("stopped", *settings, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert_same_run(tmp_path, "whole", "stopped")


def test_a_second_interruption_of_the_same_step_stops_at_once(tmp_path, fit):
    with pytest.raises(Interrupted, match=r"stopped; step 2 is saved"):
        fit("run", callbacks=[At(3, "before", interrupt), At(3, "backward", interrupt)])
    with pytest.raises(Interrupted, match="stopped before anything was saved; start again with the same command"):
        fit("early", callbacks=[At(0, "before", interrupt), At(0, "backward", interrupt)])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    whole = fit("whole")
    resumed = fit("run", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_being_terminated_is_being_interrupted(fit):
    with pytest.raises(Interrupted, match="step 1 is saved"):
        fit("run", callbacks=[At(0, "backward", lambda: os.kill(os.getpid(), signal.SIGTERM))])


def test_a_finished_run_that_is_resumed_gives_its_weights_again(fit):
    first, again = fit("run"), fit("run", resume=True)
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("limit", [1_000, 60_000], ids=["weights", "checkpoint"])
def test_a_full_disk_keeps_the_former_checkpoint_and_says_how_to_continue(tmp_path, fit, limit):
    """A file may grow to `limit` bytes from step 3 on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    fill = At(3, "before", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard)))
    settings = ["training.keep_best=false"] if limit > 50_000 else []
    try:
        with pytest.raises(TrainingError) as error:
            fit("full", *settings, callbacks=[fill])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message = str(error.value)
    assert message.startswith("step 4: ")
    assert "cannot be written (File too large)" in message
    assert message.endswith("the checkpoint of step 2 is intact: mend that, then continue from it with `resume`")
    assert "last.ckpt" in message
    assert ("best.safetensors" in message) == (limit < 50_000)
    assert "\n" not in message
    assert not list((tmp_path / "full").rglob("*.part"))
    whole, resumed = fit("whole", *settings), fit("full", *settings, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_checkpoint_of_another_run_is_refused_and_stays(tmp_path, fit, data):
    fit("run", "training.steps=4")
    content = (tmp_path / "run" / "last.ckpt").read_bytes()
    for settings, difference in {
        ("training.steps=4", "network.channels=12"): "network.channels: 8 in the checkpoint, now 12",
        ("training.steps=4", "network.preset=lcoan"): "network.preset: lcoan-light in the checkpoint, now lcoan",
        ("training.steps=4", "seed=4"): "seed: 3 in the checkpoint, now 4",
        ("training.steps=9",): "training.steps: 4 in the checkpoint, now 9",
    }.items():
        with pytest.raises(RecipeError) as error:
            fit("run", *settings, resume=True)
        message = str(error.value)
        assert "the checkpoint is of another run (" in message
        assert difference in message
        assert "); continue it as it began" in message
    (data / "train" / "0.png").unlink()
    with pytest.raises(RecipeError, match=r"number of training images: 3 in the checkpoint, now 2"):
        fit("run", "training.steps=4", resume=True)
    assert (tmp_path / "run" / "last.ckpt").read_bytes() == content


def test_a_run_goes_on_with_the_sizes_that_its_preset_had(tmp_path, fit):
    """A checkpoint that does not say the sizes of its network is of the time before they changed."""
    former = ["training.steps=4", "network.num_groups=4", "network.num_blocks=2", "network.balanced=false"]
    fit("run", *former)
    path = tmp_path / "run" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["nlsr"].pop("network")["num_blocks"] == 2
    torch.save(checkpoint, path)
    fit("run", *former, resume=True)
    checkpoint["nlsr"]["recipe"] = (
        checkpoint["nlsr"]["recipe"]
        .replace('"num_groups":4,', "")
        .replace('"num_blocks":2,', "")
        .replace('"balanced":false,', "")
    )
    torch.save(checkpoint, path)
    fit("run", *former, resume=True)
    with pytest.raises(RecipeError, match=r"network.num_blocks: 2 in the checkpoint, now 6"):
        fit("run", *former[:2], "network.num_blocks=6", resume=True)


def forget_balanced(path):
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["nlsr"]["network"].pop("balanced") is False
    torch.save(checkpoint, path)


def test_a_run_goes_on_that_began_before_a_field_of_its_network_was_known(tmp_path, fit):
    settings = ["training.steps=4", "network.balanced=false"]
    fit("run", *settings)
    forget_balanced(tmp_path / "run" / "last.ckpt")
    fit("run", *settings, resume=True)
    with pytest.raises(RecipeError, match=r"\(network.balanced: False in the checkpoint, now True\)"):
        fit("run", "training.steps=4", "network.balanced=true", resume=True)


def test_what_only_clusters_have_keeps_no_network_without_them_from_going_on(tmp_path, fit):
    settings = ["training.steps=4", "network={preset='levn',scale=2,channels=8,num_groups=1,num_blocks=1,num_keys=8}"]
    fit("run", *settings)
    forget_balanced(tmp_path / "run" / "last.ckpt")
    fit("run", *settings, resume=True)


def test_how_often_is_validated_may_change_when_a_run_goes_on(tmp_path, fit):
    whole = fit("whole")
    with pytest.raises(Interrupted):
        fit("run", callbacks=[At(2, "backward", interrupt)])
    resumed = fit("run", "training.validate_every=3", "training.keep_best=false", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_best_weights_are_those_of_the_whole_run(tmp_path, fit, monkeypatch):
    """A worse validation after resuming does not take their place, a better one does."""

    def scored(*scores):
        left = iter(scores)
        monkeypatch.setattr("nlsr.train.loop.Training.score", lambda *_: next(left))

    def best():
        return json.loads(read_tensors(tmp_path / "run" / "best.safetensors")[1]["card"])

    scored(20.0)
    with pytest.raises(Interrupted):
        fit("run", callbacks=[At(2, "backward", interrupt)])
    assert best() == {"step": 2, "psnr": 20.0}
    scored(19.0)
    with pytest.raises(Interrupted):
        fit("run", resume=True, callbacks=[At(4, "backward", interrupt)])
    assert best() == {"step": 2, "psnr": 20.0}
    scored(21.0)
    fit("run", resume=True)
    assert best() == {"step": 6, "psnr": 21.0}


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 rubbish", b"weights"], ids=["empty", "damaged", "foreign"])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path, fit, content):
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "last.ckpt"
    path.write_bytes(content)
    if content == b"weights":
        torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: expected a checkpoint of nlsr train, found") as error:
        fit("run", resume=True)
    assert "\n" not in str(error.value)


def test_a_full_disk_ends_tensorboards_log_and_not_the_training(tmp_path, monkeypatch, capfd, caplog, pictures):
    """A file may grow to 2000 bytes."""
    pytest.importorskip("tensorboard")
    monkeypatch.setattr("threading.excepthook", threading.excepthook)
    quiet()
    log = Log(tmp_path, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        for step in range(30):  # more than wait to be written
            log.numbers(step, {"loss": 0.5})
            log.picture(step, torch.rand(1, 3, 64, 64))
        log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caplog.messages == ["TensorBoard's log cannot be written (File too large), it ends here"]
    assert "Traceback" not in capfd.readouterr().err


def test_a_run_goes_on_when_the_weights_that_it_started_from_are_gone(tmp_path, fit, recipe_file):
    start = tmp_path / "start.safetensors"
    nlsr.save_network(start, read_recipe(recipe_file, ["seed=9"]).build_network())
    settings = [f"start='{start}'"]
    whole = fit("whole", *settings)
    with pytest.raises(Interrupted):
        fit("cut", *settings, callbacks=[At(3, "backward", lambda: os.kill(os.getpid(), signal.SIGTERM))])
    start.unlink()
    resumed = fit("cut", *settings, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_validation_image_that_vanishes_is_not_left_out_of_the_mean_and_the_steps_are_saved(tmp_path, fit, data):
    gone = data / "valid" / "11.png"
    content = gone.read_bytes()
    with pytest.raises(TrainingError, match=r"^step 4: .*11\.png.*; the checkpoint of step 4 is intact"):
        fit("cut", callbacks=[At(3, "before", gone.unlink)])
    gone.write_bytes(content)
    whole, resumed = fit("whole"), fit("cut", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
