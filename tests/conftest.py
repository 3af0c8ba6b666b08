"""What all tests share: shapes in signatures are checked while they run."""

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
    import nlsr.train.loop  # noqa: F401


@pytest.fixture(autouse=True)
def seeded():
    """Draws that a test does not care about are the same in every run."""
    torch.manual_seed(0)
