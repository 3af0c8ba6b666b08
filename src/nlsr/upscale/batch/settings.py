"""What is asked of a batch, and what of it decides about results."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from nlsr.images import MAX_PIXELS
from nlsr.networks import name_of
from nlsr.upscale.foreign import Foreign
from nlsr.upscale.upscaler import Upscaler


@dataclass(frozen=True)
class Saving:
    """What is asked for beside the upscaling itself.

    Args:
        format: format of the results; without it their ending decides.
        quality: as `nlsr.images.write` takes it.
        strip: leave all metadata out; what the colours mean stays.
        tone_map: bring pictures of PQ and HLG to standard range.
        overwrite: replace files that are there.
        make_folders: create the folders of results.
        max_pixels: pictures with more pixels are refused.
    """

    format: str | None = None
    quality: int | None = None
    strip: bool = False
    tone_map: bool = False
    overwrite: bool = False
    make_folders: bool = False
    max_pixels: int = MAX_PIXELS


def deciding(upscaler: Upscaler, saving: Saving) -> dict[str, Any]:
    """What decides about results beside the pictures: JSON values, equal for equal results.

    The budget is left out: it decides where pictures are cut, and a user who continues with a smaller budget after
    running out of memory does not want to begin anew. Loads all networks of the model.
    """
    networks = [upscaler.models.cascade(scale).networks[0] for scale in upscaler.models.scales]
    return {
        "model": [_identity(network) for network in networks],
        "size": {name: value for name, value in asdict(upscaler.size).items() if value is not None},
        "tile": upscaler.tile,
        "precision": upscaler.precision,
        "ensemble": upscaler.ensemble,
        "format": saving.format,
        "quality": saving.quality,
        "strip": saving.strip,
        "tone_map": saving.tone_map,
    }


def _identity(network: nn.Module) -> str:
    """Equal for equal networks with equal weights, whatever file they came from; functions are told by their names."""
    what = network.name if isinstance(network, Foreign) else f"{name_of(network)} {network.config}"
    digest = hashlib.sha256(what.encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
