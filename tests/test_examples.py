"""What the documentation tells people to write, run as it stands."""

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nlsr.attention import OPERATORS
from nlsr.networks import NETWORKS, PRESETS

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def _dictionaries_stay_as_they_are():
    before = [(dictionary, dictionary.copy()) for dictionary in (OPERATORS, NETWORKS, PRESETS)]
    yield
    for dictionary, content in before:
        dictionary.clear()
        dictionary.update(content)


@pytest.mark.usefixtures("_dictionaries_stay_as_they_are")
def test_every_line_for_people_who_build_networks_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "attention.md").read_text()
    names = {"__name__": "attention"}
    for block in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        line = text[: block.start(1)].count("\n")
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile("\n" * line + block[1], DOCS / "attention.md", "exec"), names)


def test_the_operator_of_the_page_is_that_of_the_script():
    assert (DOCS / "examples" / "strided.py").read_text() in (DOCS / "attention.md").read_text()


def test_an_operator_of_ones_own_is_trained_killed_resumed_evaluated_explained_and_measured(tmp_path):
    words = [sys.executable, DOCS / "examples" / "tour.py", DOCS.parent / "examples" / "cat.png", tmp_path]
    finished = subprocess.run(words, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    out = finished.stdout
    assert out.startswith("killed\n")
    steps = re.findall(r"step (\d+)/20", finished.stderr)
    assert "5" not in steps  # of the run that was killed
    assert steps[-1] == "20"
    assert "upscaled by Strided to (1, 3, 192, 192)" in out
    assert "| 0.png | 96×96 |" in out
    assert "strided: 20,30: matched in 96x96 pixels, draws most on" in out
    assert "| strided | " in out
    assert (tmp_path / "explained.png").exists()
