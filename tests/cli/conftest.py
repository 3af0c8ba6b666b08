"""What tests of commands share."""

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
