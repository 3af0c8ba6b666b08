"""What all tests share: shapes in signatures are checked while they run, and commands run in this process."""

import signal
import sys

import pytest
import torch
from jaxtyping import install_import_hook

CHECKED = [
    "nlsr.attention",
    "nlsr.networks",
    "nlsr.evaluate",
    "nlsr.explain",
    "nlsr.images.alpha",
    "nlsr.images.colour",
    "nlsr.images.resize",
    "nlsr.train",
]

with install_import_hook(CHECKED, "beartype.beartype"):
    import nlsr.attention
    import nlsr.evaluate
    import nlsr.explain
    import nlsr.images
    import nlsr.networks
    import nlsr.train.data
    import nlsr.train.loop


@pytest.fixture(autouse=True)
def seeded():
    """Draws that a test does not care about are the same in every run."""
    torch.manual_seed(0)


@pytest.fixture
def nlsr(monkeypatch, capsys):
    """nlsr("upscale", path, ...) -> (exit code, standard output, standard error), as a user would type it."""
    from nlsr.cli import main

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["nlsr", *map(str, words)])
        before = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as exit:
                main()
        finally:
            signal.signal(signal.SIGTERM, before)
        out, err = capsys.readouterr()
        return exit.value.code, out, err

    return run
