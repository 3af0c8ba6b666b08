"""What is evaluated: a network by name or file, or bicubic resizing, as a function from low-res to upscaled images."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from nlsr.errors import UsageError
from nlsr.evaluate.evaluation import Upscale, bicubic
from nlsr.files import sha256
from nlsr.images import resize
from nlsr.networks import PRESETS, Network, name_of
from nlsr.upscale import Upscaler
from nlsr.upscale.ensemble import ensemble as over_eight_positions
from nlsr.upscale.published_tiles import average_tiles, csnln_quarters, edsr_quarters
from nlsr.weights import find, load
from nlsr.weights.checkpoint import is_ours, read_metadata

Tiles = int | Literal["none", "published"]

BICUBIC = "bicubic"


@dataclass(frozen=True)
class Model:
    """Something that upscales, and what decides about its results."""

    name: str
    """As the user called it."""
    scale: int
    upscale: Upscale
    identity: dict[str, Any]
    """Equal identities give equal results on equal images: hash of the weights, settings, tiles. JSON values."""
    network: str = BICUBIC
    """Its name in `NETWORKS`."""
    published_as: str | None = None
    """The preset whose published numbers are about it: a file of the authors' format and sizes, or bicubic itself."""
    enlarge_luma: Upscale | None = None


def bicubic_model(scale: int) -> Model:
    """The baseline of every table, which also enlarges luma alone, as published rows of it were made."""
    identity = {"model": BICUBIC, "scale": scale}
    enlarge_luma = partial(resize, scale=float(scale))
    return Model(BICUBIC, scale, bicubic(scale), identity, published_as=BICUBIC, enlarge_luma=enlarge_luma)


def load_model(
    name: str,
    *,
    scale: int | None = None,
    settings: dict[str, Any] | None = None,
    tiles: Tiles = "none",
    redraw: int | None = None,
    ensemble: bool = False,
    device: str | torch.device = "cpu",
    engine: str = "torch",
) -> Model:
    """A model by name.

    Args:
        name: the name of packaged weights or of a family of them, a weight file, or "bicubic".
        scale: needed for "bicubic"; decides between the members of a family, of which the largest is the default.
        settings: fields of the config that a published file does not determine.
        tiles: whole images, tiles of a side, or as the numbers of the network were published.
        redraw: a seed; fresh hash directions for every image, a function of the seed and the image.
        ensemble: the mean over eight flips and turns.
        engine: as `Upscaler` takes it.
    Raises: UsageError for a scale that the model lacks, CheckpointError for a model that cannot be loaded.
    """
    if name == BICUBIC:
        if scale is None:
            raise UsageError("`model=bicubic`: needs `scale`")
        return bicubic_model(scale)
    path = find(name, scale=scale)
    network = load(path, device=device, **(settings or {}))
    if scale not in (None, network.scale):
        raise UsageError(f"`scale={scale}`: {name} upscales by {network.scale}")
    upscale, network = _upscale(network, tiles=tiles, ensemble=ensemble, device=device, engine=engine)
    identity = {
        "model": sha256(path),
        "settings": {key: str(value) for key, value in sorted((settings or {}).items())},
        "tiles": tiles,
        "redraw": redraw,
        "ensemble": ensemble,
        "device": torch.device(device).type,
    } | ({} if (used := getattr(upscale, "engine_name", "torch")) == "torch" else {"engine": used})
    kind = name_of(network)
    return Model(
        name,
        network.scale,
        upscale if redraw is None else _redrawing(network, upscale, redraw),
        identity,
        network=kind,
        published_as=None if is_ours(read_metadata(path)) else _preset_of(network, kind),
    )


def _preset_of(network: Network, kind: str) -> str | None:
    """The preset that has the sizes of a network."""
    names = [name for name in PRESETS if name.split("-")[0] == kind]
    return next((name for name in names if PRESETS[name](network.scale) == network.config), None)


def _upscale(
    network: Network, *, tiles: Tiles, ensemble: bool, device: str | torch.device, engine: str
) -> tuple[Upscale, Network]:
    """A plain function, and the network that it computes with."""
    if tiles != "published":
        upscaler = Upscaler(network, tile=tiles, precision="fp32", ensemble=ensemble, device=device, engine=engine)
        computing = upscaler.models.network(network.scale)
        assert isinstance(computing, Network)
        return upscaler, computing
    if engine != "torch":
        raise UsageError(f"`engine={engine}`: published numbers are torch's; leave out `tiles=published`, or `engine`")
    tiled = partial(_published_tiling(network), network)
    if ensemble:
        tiled = partial(over_eight_positions, tiled)
    return (lambda low_res: tiled(low_res.to(device))), network


def _published_tiling(network: Network) -> Callable[[Upscale, Tensor], Tensor]:
    """How the numbers of a network were made.

    Raises: UsageError for a network that has none.
    """
    tilings: dict[str, Callable[[Upscale, Tensor], Tensor]] = {
        "asid": average_tiles,
        "csnln": partial(csnln_quarters, scale=network.scale),
        **dict.fromkeys(("dlsn", "enlcn", "lcoan", "nlan", "nlsn"), edsr_quarters),
        **dict.fromkeys(("atd", "catanet", "pan", "pft", "smfanet"), _whole),
    }
    kind = name_of(network)
    if kind not in tilings:
        raise UsageError(f"`tiles=published`: nothing is published of {kind}; leave it out")
    return tilings[kind]


def _whole(upscale: Upscale, low_res: Tensor) -> Tensor:
    return upscale(low_res)


def _redrawing(network: Network, upscale: Upscale, seed: int) -> Upscale:
    """Draws that depend on seed and image alone, so that what is evaluated before does not matter."""

    def redrawing(low_res: Tensor) -> Tensor:
        content = low_res.contiguous().numpy().tobytes() + repr((seed, tuple(low_res.shape))).encode()
        drawn = int.from_bytes(hashlib.sha256(content).digest()[:8]) >> 1
        network.draws = torch.Generator().manual_seed(drawn)
        return upscale(low_res)

    return redrawing
