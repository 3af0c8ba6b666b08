"""Networks by Hugging Face's convention: `from_pretrained`, `save_pretrained`, `push_to_hub`.

    from nlsr.hub import HubModel

    HubModel(nlsr.load("lcoan-light-x4")).save_pretrained("folder")
    network = HubModel.from_pretrained("folder").network        # or the name of a repository of the hub

A folder holds one of our weight files, `model.safetensors`, which `nlsr.load` reads too, and `config.json`. This needs
the extra `hub`.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nlsr.extras import require
from nlsr.networks import Network, name_of
from nlsr.weights import load, save_network

require("huggingface_hub", extra="hub")
# The library reads it when it is imported: nobody is told what is done here.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from huggingface_hub import PyTorchModelHubMixin, constants, hf_hub_download  # noqa: E402


class HubModel(  # type: ignore[call-arg, unused-ignore]
    nn.Module,
    PyTorchModelHubMixin,
    library_name="nlsr",
    pipeline_tag="image-to-image",
    tags=["super-resolution"],
):
    """A network of ours with the methods of the hub."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, low_res: Tensor) -> Tensor:
        """The upscaled images (b, 3, scale * h, scale * w) of low-res images (b, 3, h, w), RGB in [0, 1]."""
        return self.network(low_res)

    def _save_pretrained(self, save_directory: Path) -> None:
        network = self.network
        save_network(save_directory / constants.SAFETENSORS_SINGLE_FILE, network)
        config = {
            "architecture": name_of(network),
            "scale": network.scale,
            "config": dataclasses.asdict(network.config),
        }
        (save_directory / constants.CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        map_location: str | torch.device = "cpu",
        **_: Any,
    ) -> "HubModel":
        """Raises: CheckpointError for a file that is damaged or none of ours."""
        name = constants.SAFETENSORS_SINGLE_FILE
        if os.path.isdir(model_id):
            path = os.path.join(model_id, name)
        else:
            path = hf_hub_download(
                model_id,
                name,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        return cls(load(path, device=map_location)).eval()
