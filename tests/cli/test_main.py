"""What all commands share: help, exit codes, signals, and standard streams that are closed or full."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COMMANDS = [
    "upscale",
    "evaluate",
    "explain",
    "train",
    "data prepare",
    "weights list",
    "weights info",
    "weights detect",
    "weights average",
    "weights convert",
    "benchmark operators",
    "benchmark networks",
]
WITH_THREADS = ["upscale x.png", "evaluate -d .", "explain x.png --at 1,1", "train x.toml"]
WITH_THREADS += ["benchmark operators", "benchmark networks"]
FULL = "/dev/full"
needs_full = pytest.mark.skipif(not os.path.exists(FULL), reason="a device that is always full is Linux's")
needs_shell = pytest.mark.skipif(os.name == "nt", reason="closes streams as a POSIX shell does")


def typed(line, **options):
    """What a shell makes of a line, in which $nlsr is the command: exit code, standard output, standard error."""
    command = f'{sys.executable} -c "from nlsr.cli import main; main()"'
    words = ["sh", "-c", line.replace("$nlsr", command)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, **options)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (14, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize("command", ["", "data", "weights", "benchmark", *COMMANDS])
def test_help_has_a_short_name(nlsr, command):
    code, out, err = nlsr(*command.split(), "-h")
    assert (code, err) == (0, "")
    assert out == nlsr(*command.split(), "--help")[1]
    assert "Usage: nlsr" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_defaults_in_one_style(nlsr, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = nlsr(*command.split(), "--help")[1]
    assert "(default" not in out
    assert " Of " not in out


def test_threads_have_their_default_said(nlsr, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for line in WITH_THREADS:
        out = nlsr(*line.split()[:2] if line.startswith("benchmark") else line.split()[:1], "--help")[1]
        assert re.search(r"--threads .*Processor threads.*\[default: \(one for each core\)\]", out)


def test_completion_knows_the_commands(nlsr, monkeypatch):
    monkeypatch.setenv("_NLSR_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "nlsr up")
    monkeypatch.setenv("COMP_CWORD", "1")
    monkeypatch.setattr(sys, "argv", ["nlsr"])
    assert nlsr()[1].split() == ["upscale"]


@pytest.mark.parametrize("line", WITH_THREADS)
@pytest.mark.parametrize("number", [0, -1, 100_000, 2**80])
def test_more_threads_than_any_machine_has_are_refused(nlsr, line, number):
    code, out, err = nlsr(*line.split(), "--threads", number)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert re.fullmatch(rf"\w+: --threads {number}: expected 1 to \d+ on this machine\n", err)


def test_a_name_that_begins_with_a_dash_gets_a_hint(nlsr, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-dash.png", "-scan.png", "--weights.pt"):
        assert "./" not in nlsr("upscale", name)[2]
        Path(name).touch()
        code, _, err = nlsr("upscale", name)
        assert (code, len(err.splitlines())) == (2, 1)
        assert err.endswith(f"; the file of this name is given as ./{name}\n")


@needs_shell
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_stop_no_work(picture, tiny_model, closed):
    code, out, err = typed(f"$nlsr upscale a.png --model {tiny_model} {closed}", cwd=picture.parent)
    assert (code, err) == (0, "")
    assert ("a_x2.png" in out) == (closed == "2>&-")
    with Image.open(picture.parent / "a_x2.png") as image:
        assert image.size == (40, 28)
        image.load()


@needs_shell
def test_what_goes_wrong_is_not_told_on_standard_output(picture, tiny_model):
    code, out, _ = typed(f"$nlsr upscale none.png --model {tiny_model} 2>&-", cwd=picture.parent)
    assert (code, out) == (1, "")


@needs_full
def test_a_full_standard_output_stops_no_work_and_is_told(picture, tiny_model):
    line = f"$nlsr upscale a.png a.png nothing.png -o out/ --model {tiny_model}"
    code, _, err = typed(f"{line} >{FULL}", cwd=picture.parent)
    assert code == 1
    assert "1 of 2 pictures failed" in err
    assert (picture.parent / "out" / "a.png").exists()
    code, _, err = typed(f"$nlsr upscale a.png --model {tiny_model} >{FULL}", cwd=picture.parent)
    lost = "standard output: cannot be written (No space left on device); the work itself is done"
    assert (code, err) == (1, f"upscale: {lost}\n")
    assert (picture.parent / "a_x2.png").exists()
    assert typed(f"$nlsr upscale a.png --overwrite --model {tiny_model} 2>{FULL}", cwd=picture.parent)[0] == 0


@needs_full
@pytest.mark.parametrize("line", ["--version", "--help", "weights list", "weights info lcoan-light-x4"])
def test_every_command_tells_that_its_output_was_lost(line):
    code, _, err = typed(f"$nlsr {line} >{FULL}")
    assert (code, len(err.splitlines())) == (1, 1)
    assert "standard output: cannot be written (No space left on device)" in err


@needs_shell
def test_who_stops_reading_stops_no_work(picture, tiny_model):
    for name in "bcd":
        (picture.parent / f"{name}.png").write_bytes(picture.read_bytes())
    line = f"{{ $nlsr upscale a.png b.png c.png d.png --model {tiny_model}; echo $? >code; }} | true"
    _, _, err = typed(line, cwd=picture.parent)
    assert err == ""
    assert (picture.parent / "code").read_text() == "1\n"
    assert len(list(picture.parent.glob("*_x2.png"))) == 4


@needs_shell
def test_letters_that_an_encoding_lacks_are_escaped(picture, tiny_model):
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    line = f"$nlsr upscale a.png -o ö.png --model {tiny_model}"
    code, out, err = typed(line, cwd=picture.parent, env=environment)
    assert (code, err) == (0, "")
    assert out.endswith("\\xf6.png\n")


needs_hangup = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")


@needs_hangup
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_interrupts_any_command_and_the_exit_code_says_which(nlsr, monkeypatch, name):
    from nlsr.weights import catalogue

    number = getattr(signal, name)
    monkeypatch.setattr(catalogue, "known_files", lambda: os.kill(os.getpid(), number))
    code, out, err = nlsr("weights", "list")
    assert (code, out, err) == (128 + number, "", "weights: interrupted\n")


@needs_hangup
def test_a_command_that_was_started_to_outlive_its_terminal_does():
    from nlsr import interrupts

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupts.listen()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
