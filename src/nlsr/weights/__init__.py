"""From files and names to networks."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from nlsr.errors import CheckpointError
from nlsr.networks import Network
from nlsr.weights.checkpoint import build, read_tensors, save_network
from nlsr.weights.detect import build_published

__all__ = ["load", "packaged", "save_network"]


def packaged() -> dict[str, Path]:
    """The weights inside the package: name -> file."""
    folder = Path(str(files("nlsr.weights"))) / "files"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def load(model: str | Path, **overrides: Any) -> Network:
    """A network in eval mode, by the name of packaged weights or from a file.

    Files may be ours or as published by the authors of a network; `overrides` set what a published file does not
    determine (`window_size`, `residual_scale`).

    Raises: CheckpointError if there is no such name or file, or if the file does not fit; each mismatch is named.
    """
    known = packaged()
    if str(model) in known:
        path = known[str(model)]
    elif Path(model).exists() or Path(model).suffix:
        path = Path(model)
    else:
        raise CheckpointError(f"no model is named '{model}' and no such file exists; packaged are: {', '.join(known)}")
    tensors, metadata = read_tensors(path)
    if metadata.get("format", "").startswith("nlsr"):
        if overrides:
            raise CheckpointError(f"{path}: holds its own config; {', '.join(overrides)} cannot be overridden")
        return build(path, tensors, metadata)
    return build_published(path, tensors, overrides)
