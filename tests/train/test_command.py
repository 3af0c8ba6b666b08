"""nlsr train as a user types it: what is printed, exit codes, one line for what is wrong."""

import os
import signal
import sys

import pytest

from nlsr.cli import main
from nlsr.extras import installing


@pytest.fixture
def words(tmp_path, data, recipe_file):
    """The command line of a training of the tiny recipe."""
    return [
        "train",
        recipe_file,
        "--data",
        data,
        "-o",
        tmp_path / "runs",
        "--cache",
        tmp_path / "cache",
        "--threads",
        1,
    ]


def test_a_training_prints_its_validations_and_where_its_weights_are(tmp_path, nlsr, words):
    code, out, err = nlsr(*words)
    assert code == 0, err
    assert out == f"tiny: 6 steps, weights in {tmp_path / 'runs' / 'tiny' / 'tiny.safetensors'}\n"
    lines = err.splitlines()
    assert [line.split()[1] for line in lines] == ["2/6", "4/6", "6/6"]
    assert all("loss" in line and "valid" in line and line.endswith("dB") for line in lines)


def test_parts_of_a_batch_are_no_steps(nlsr, words):
    code, _, err = nlsr(*words, "--set", "training.accumulate=2")
    assert code == 0, err
    assert [line.split()[1] for line in err.splitlines()] == ["2/6", "4/6", "6/6"]


@pytest.mark.parametrize(
    ("how", "more"), [(signal.SIGINT, ["--set", "data.degradation.blur=0.9"]), (signal.SIGTERM, [])]
)
def test_ctrl_c_saves_the_step_in_hand_and_the_same_command_goes_on(tmp_path, child, words, how, more):
    """The signal reaches all processes of a terminal, also those that load batches."""
    words += more

    def typed(*more, stop_after=None):
        """What the command wrote to standard error, and its exit code."""

        def work():
            os.setpgrp()
            sys.stderr = (tmp_path / "err").open("w")
            sys.argv = ["nlsr", *map(str, words), *more]
            if stop_after is not None:
                from nlsr.cli.training_progress import TrainingProgress

                def stop(self, trainer, *_):
                    if trainer.global_step == stop_after:
                        os.killpg(0, how)

                TrainingProgress.on_after_backward = stop
            main()

        code = child(work)
        return code, (tmp_path / "err").read_text()

    code, err = typed(stop_after=2)
    assert code == 128 + how
    assert err.splitlines()[-1] == (
        "train: stopped; step 3 is saved, continue from it by adding --resume to the same command"
    )
    code, err = typed("--resume")
    assert code == 0, err
    assert [line.split()[1] for line in err.splitlines()] == ["4/6", "6/6"]


def test_a_run_is_not_overwritten_and_a_missing_one_not_resumed(tmp_path, nlsr, words):
    code, _, err = nlsr(*words, "--resume")
    assert code == 2
    assert "no checkpoint to continue from" in err
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    (tmp_path / "runs" / "tiny" / "last.ckpt").write_bytes(b"")
    code, _, err = nlsr(*words)
    assert code == 2
    assert "continue it with --resume" in err


def test_a_folder_that_cannot_be_made_is_said_before_any_work(nlsr, words, tmp_path):
    (tmp_path / "runs").write_text("a file")
    code, out, err = nlsr(*words)
    assert (code, out) == (2, "")
    assert err.startswith("train: -o: the folder ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("setting", "code", "message"),
    [
        ("data.validation=nowhere", 1, "nowhere"),
        ("data.train=['nowhere']", 2, "expected a folder of training images"),
        ("training.patch_size=900", 2, "no training image holds a patch of 900x900"),
        ("training.learning_rat=1", 2, "did you mean 'learning_rate'?"),
        ("start=nothing", 2, "no model is named 'nothing'"),
        ("training.learning_rate=1e30", 1, "is not finite; its batch is in"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(nlsr, words, setting, code, message):
    given, out, err = nlsr(*words, "--set", setting, "--set", "training.warmup_steps=0")
    assert (given, out) == (code, "")
    assert message in err
    assert len([line for line in err.splitlines() if not line.startswith("step ")]) == 1


def test_a_missing_extra_says_how_to_install_it(nlsr, words, monkeypatch):
    monkeypatch.setattr("nlsr.extras.find_spec", {"pip": "here"}.get)
    code, _, err = nlsr(*words)
    assert (code, err) == (2, f"train: this needs 'lightning'; install it with: {installing('train')}\n")
