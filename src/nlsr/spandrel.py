"""Our networks in programs that are built on spandrel.

    import nlsr.spandrel

    nlsr.spandrel.register()                   # from now on spandrel's ModelLoader knows LCoAN, NLSN, ... and ours

The other way round, files that spandrel knows, is `nlsr.weights.foreign`.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nlsr.errors import CheckpointError, NlsrError
from nlsr.networks import NETWORKS, PRESETS, Network, build, preset_config
from nlsr.renamed import FORMER_PRESETS
from nlsr.weights import packaged
from nlsr.weights.checkpoint import untrained
from nlsr.weights.detect import build_published, detect
from nlsr.weights.foreign import import_spandrel
from nlsr.weights.published import PUBLISHED

SCALES = (2, 3, 4)
FILE = "the file"
"""What a file is called in errors: spandrel hands on tensors, not names of files."""

Tensors = dict[str, Tensor]


def register(registry: Any = None) -> list[str]:
    """Let spandrel load the files of every network of ours, as their authors published them and as nlsr writes them.

    They are asked before spandrel's own architectures, and only take files of which they know every name. A second call
    changes nothing.

    Args:
        registry: an `ArchRegistry`; by default the one that every `ModelLoader` uses.
    Returns: the ids of the architectures that were added.
    Raises: UsageError if spandrel is missing, too old, or cannot be imported.
    """
    spandrel = import_spandrel()
    registry = spandrel.MAIN_REGISTRY if registry is None else registry
    others = tuple(support.architecture.id for support in registry)
    supports = [
        spandrel.ArchSupport.from_architecture(_architecture(spandrel, name), before=others)
        for name in NETWORKS
        if f"nlsr-{name}" not in others
    ]
    return [str(support.architecture.id) for support in registry.add(*supports)]


def _architecture(spandrel: Any, name: str) -> Any:
    """What spandrel asks whether it knows a file, and to load it."""
    kind = NETWORKS[name][1]

    class Ours(spandrel.Architecture):
        def __init__(self) -> None:
            super().__init__(id=f"nlsr-{name}", name=kind.__name__, detect=lambda tensors: holds(name, tensors))

        def load(self, state_dict: Tensors) -> Any:
            network = network_of(name, state_dict)
            return spandrel.ImageModelDescriptor(
                network,
                network.state_dict(),
                architecture=self,
                purpose="SR",
                tags=[f"{network.config.channels}nf"] if hasattr(network.config, "channels") else [],
                # Positions are matched in float32; whole networks in half precision are not tested.
                supports_half=False,
                supports_bfloat16=False,
                scale=network.scale,
                input_channels=3,
                output_channels=3,
                # A pixel may draw on the whole image.
                tiling=spandrel.ModelTiling.DISCOURAGED if network.operators() else spandrel.ModelTiling.SUPPORTED,
            )

    return Ours()


def holds(name: str, tensors: Tensors) -> bool:
    """Whether tensors are those of a network, under our names or its published ones, and of no other."""
    if any(not isinstance(tensor, Tensor) for tensor in tensors.values()):
        return False
    if any(True for _ in _fitting(name, tensors)):
        return True
    try:
        return name in PUBLISHED and detect(FILE, tensors).network == name
    except CheckpointError:
        return False


def network_of(name: str, tensors: Tensors) -> Network:
    """The network of these tensors, in eval mode.

    Raises: CheckpointError if they fit none, or several of different scales: PAN's at x2 and x3 are equal.
    """
    configs = list(_fitting(name, tensors))
    if not configs:
        return build_published(FILE, tensors, {})
    if len({config.scale for config in configs}) > 1:
        scales = " or ".join(f"x{config.scale}" for config in configs)
        raise CheckpointError(f"{FILE}: holds {name} at {scales}, which have equal tensors; load it with nlsr.load")
    network = build(configs[0])
    network.load_state_dict(tensors)
    return network.eval()


def _fitting(name: str, tensors: Tensors) -> Iterator[Any]:
    """The configs that are known whose networks have exactly these names and shapes."""
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    for config, own in _known():
        if type(config) is NETWORKS[name][0] and own == shapes:
            yield config


def _known() -> Iterator[tuple[Any, dict[str, tuple[int, ...]]]]:
    """Configs of presets as they are and were and of the packaged weights, with the shapes of their tensors."""
    for scale in SCALES:
        for preset in PRESETS:
            yield _of_preset(preset, scale)
        for preset, fields in FORMER_PRESETS.items():
            yield _of_preset(preset, scale, *fields.items())
    for file in packaged().values():
        yield _of_file(file)


@cache
def _of_preset(preset: str, scale: int, *fields: tuple[str, Any]) -> tuple[Any, dict[str, tuple[int, ...]]]:
    try:
        config = preset_config(preset, scale, dict(fields))
        with torch.device("meta"):
            return config, _shapes(build(config))
    except NlsrError:  # a preset that somebody registered may lack a scale
        return None, {}


@cache
def _of_file(file: Path) -> tuple[Any, dict[str, tuple[int, ...]]]:
    network = untrained(file)
    return network.config, _shapes(network)


def _shapes(network: Network) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
