"""No command reaches for a network unless the user asks for a download."""

import urllib.request

import pytest
import torch
from PIL import Image
from tests.evaluate.test_models import as_published
from tests.sockets import attempts
from typer.main import get_command

from nlsr.cli import app
from nlsr.networks import PAN, LCoAN, LCoANConfig, PANConfig
from nlsr.weights import save_network


@pytest.fixture
def folder(tmp_path, monkeypatch, here):
    """Small models and a picture, in the folder in which commands run; what they measure, they measure here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NLSR_CACHE", str(tmp_path / "cache"))
    config = LCoANConfig(2, channels=8, num_groups=2, num_blocks=1, num_clusters=4, chunk_size=16)
    save_network("m.safetensors", LCoAN(config))
    torch.save(as_published(PAN(PANConfig(2, channels=8, upsampler_channels=4, num_blocks=1))), "pan.pth")
    torch.save({"layers.0.weight": torch.zeros(3)}, "foreign.pth")
    (tmp_path / "pictures").mkdir()
    Image.effect_noise((48, 40), 60).convert("RGB").save(tmp_path / "pictures" / "a.png")


WELL = {
    "upscale": ["upscale", "pictures/a.png", "--model", "m.safetensors"],
    "upscale a folder": ["upscale", "pictures", "-o", "out", "--model", "m.safetensors"],
    "evaluate": ["evaluate", "--model", "m.safetensors", "--data", "pictures"],
    "explain": ["explain", "pictures/a.png", "--at", "9,9", "--model", "m.safetensors", "--steps", "1"],
    "weights list": ["weights", "list"],
    "weights info": ["weights", "info", "m.safetensors"],
    "weights detect": ["weights", "detect", "m.safetensors", "pan.pth"],
    "weights convert": ["weights", "convert", "pan.pth", "--set", "scale=2", "-o", "converted.safetensors"],
    "weights average": ["weights", "average", "m.safetensors", "m.safetensors", "-o", "mean.safetensors"],
    "data prepare": ["data", "prepare", "pictures", "-s", "2", "--patch-size", "8"],
    "benchmark networks": ["benchmark", "networks", "pan", "--size", "16x16", "--threads", "1"],
    "benchmark operators": ["benchmark", "operators", "window", "--size", "8", "--repeats", "1", "--threads", "1"],
    "benchmark recall": ["benchmark", "recall", "--data", "pictures", "--model", "m.safetensors"],
    "--version": ["--version"],
}
"""Commands that end well."""
BADLY = {
    "upscale by a foreign file": ["upscale", "pictures/a.png", "--model", "foreign.pth"],
    "upscale by weights that are not here": ["upscale", "pictures/a.png", "--model", "smfanet-plus-x4"],
    "weights detect, a foreign file": ["weights", "detect", "foreign.pth"],
    "weights get, refused": ["weights", "get", "pan-x2"],
    "benchmark engines of no model": ["benchmark", "engines", "none-such"],
}
"""Commands that cannot do what they are asked for: they do not look for it elsewhere."""
ELSEWHERE = {
    "train": "tests/train/test_sockets.py",
    "export": "tests/export/test_export.py",
    "benchmark exports": "tests/benchmark/test_exports.py",
    "serve": "opens a port, as it is asked to",
}


@pytest.mark.parametrize("name", [*WELL, *BADLY])
def test_a_command_reaches_for_no_network(nlsr, folder, monkeypatch, name):
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    with attempts() as tried:
        code, _, err = nlsr(*(WELL | BADLY)[name])
    assert tried == []
    assert (code == 0) == (name in WELL), err


def test_every_command_is_among_them():
    def paths(command, above=()):
        inner = getattr(command, "commands", None)
        return [above] if inner is None else [p for name in inner for p in paths(inner[name], (*above, name))]

    tried = [tuple(words) for words in (WELL | BADLY).values()]
    found = paths(get_command(app))
    assert len(found) > 12
    left = {" ".join(path) for path in found if not any(words[: len(path)] == path for words in tried)}
    assert left == set(ELSEWHERE)


def test_an_attempt_would_be_noticed():
    with attempts() as tried, pytest.raises(OSError):
        urllib.request.urlopen("http://127.0.0.1:9/", timeout=1)
    assert any(word.startswith("socket.connect") for word in tried)
