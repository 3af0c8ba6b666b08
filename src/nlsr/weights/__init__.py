"""From files and names to networks."""

from pathlib import Path
from typing import Any

from nlsr.errors import CheckpointError
from nlsr.networks import Network
from nlsr.weights.average import average
from nlsr.weights.catalogue import packaged
from nlsr.weights.checkpoint import build, is_ours, read_tensors, save_network
from nlsr.weights.detect import build_published

__all__ = ["average", "find", "load", "packaged", "save_network"]


def load(model: str | Path, **settings: Any) -> Network:
    """A network in eval mode, by the name of packaged weights or from a file.

    Files may be ours or as published by the authors of a network.

    Args:
        settings: fields of the config that a published file does not determine (`chunk_size`, `residual_scale`, the
            `scale` of PAN at x2 and x3), where they should differ from the published values.
    Raises: CheckpointError if there is no such name or file, or if the file does not fit; each mismatch is named.
    """
    path = find(model)
    tensors, metadata = read_tensors(path)
    if not is_ours(metadata):
        return build_published(path, tensors, settings)
    if settings:
        raise CheckpointError(f"{path}: holds its own config; {', '.join(settings)} cannot be set")
    return build(path, tensors, metadata)


def find(model: str | Path) -> Path:
    """The file of a name of packaged weights, or of a path.

    Raises: CheckpointError if there is neither.
    """
    known = packaged()
    if str(model) in known:
        return known[str(model)]
    if Path(model).exists() or Path(model).suffix:
        return Path(model)
    raise CheckpointError(f"no model is named '{model}' and no such file exists; packaged are: {', '.join(known)}")
