"""No command reaches for a network unless the user asks for a download."""

import urllib.request

import pytest
import torch
from PIL import Image
from tests.sockets import attempts

from nlsr.networks import LCoAN, LCoANConfig
from nlsr.weights import save_network


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small model and a picture, in the folder in which commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NLSR_CACHE", str(tmp_path / "cache"))
    config = LCoANConfig(2, channels=8, num_groups=2, num_blocks=1, num_clusters=4, chunk_size=16)
    save_network("m.safetensors", LCoAN(config))
    torch.save({"layers.0.weight": torch.zeros(3)}, "foreign.pth")
    (tmp_path / "pictures").mkdir()
    Image.effect_noise((48, 40), 60).convert("RGB").save(tmp_path / "pictures" / "a.png")


COMMANDS = {
    "upscale": ["upscale", "pictures/a.png", "--model", "m.safetensors"],
    "upscale a folder": ["upscale", "pictures", "-o", "out", "--model", "m.safetensors"],
    "upscale by a foreign file": ["upscale", "pictures/a.png", "--model", "foreign.pth"],
    "upscale by weights that are not here": ["upscale", "pictures/a.png", "--model", "smfanet-plus-x4"],
    "evaluate": ["evaluate", "--model", "m.safetensors", "--data", "pictures"],
    "explain": ["explain", "pictures/a.png", "--at", "9,9", "--model", "m.safetensors", "--steps", "1"],
    "weights list": ["weights", "list"],
    "weights info": ["weights", "info", "m.safetensors"],
    "weights detect": ["weights", "detect", "m.safetensors", "foreign.pth"],
    "weights get, refused": ["weights", "get", "pan-x2"],
    "data prepare": ["data", "prepare", "pictures", "-s", "2"],
    "--version": ["--version"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_reaches_for_no_network(nlsr, folder, monkeypatch, name):
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    with attempts() as tried:
        nlsr(*COMMANDS[name])
    assert tried == []


def test_an_attempt_would_be_noticed():
    with attempts() as tried, pytest.raises(OSError):
        urllib.request.urlopen("http://127.0.0.1:9/", timeout=1)
    assert any(word.startswith("socket.connect") for word in tried)
