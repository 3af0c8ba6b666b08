"""What tests of commands share."""

import importlib
import json

import pytest
import torch

from nlsr.networks import LCoAN, LCoANConfig
from nlsr.weights import save_network


@pytest.fixture
def tiny_model(tmp_path):
    """A weight file of a small random network at x2."""
    torch.manual_seed(0)
    config = LCoANConfig(2, channels=8, num_groups=2, num_blocks=1, num_clusters=4, chunk_size=16, image_skip=True)
    path = tmp_path / "tiny.safetensors"
    save_network(path, LCoAN(config))
    return path


class Here:
    """A worker that answers in this process: to start another takes longer than all that is measured."""

    def __init__(self, module, *, threads, modules=()):
        self.requests = importlib.import_module(module).REQUESTS

    def ask(self, request, *arguments, limit):
        return json.loads(json.dumps(self.requests[request](*arguments)))

    def close(self):
        pass


@pytest.fixture
def here(monkeypatch):
    for measured in ("networks", "operators"):
        monkeypatch.setattr(f"nlsr.benchmark.{measured}.Worker", Here)
