"""From files and names to networks."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nlsr.default import DEFAULT_MODEL
from nlsr.devices import device_named
from nlsr.errors import CheckpointError, ModelNotFoundError, UsageError
from nlsr.extras import installing
from nlsr.networks import Network
from nlsr.weights.averaging import average
from nlsr.weights.catalogue import available, downloads, family, packaged, place
from nlsr.weights.checkpoint import attentions, build, is_ours, read_tensors, save_network
from nlsr.weights.detect import UnknownNetwork, build_published

__all__ = ["attentions", "average", "family", "find", "load", "looked_into", "packaged", "save_network"]


def load(model: str | Path = DEFAULT_MODEL, *, device: str | torch.device = "cpu", **settings: Any) -> Network:
    """A network in eval mode, by the name of packaged weights or from a file.

    Files may be ours, as published by the authors of a network, or of any network that spandrel knows, if that library
    is installed (the extra `spandrel`).

    Args:
        model: a name of weights ("lcoan-light-x4"), of a family of them ("lcoan-light"), or a weight file.
        device: where the network is to run.
        settings: fields of the config that a published file does not determine (`chunk_size`, `residual_scale`, the
            `scale` of PAN at x2 and x3), where they should differ from the published values. The `scale` also decides
            between the members of a family, of which the largest is the default.
    Raises: CheckpointError if there is no such name or file, or if the file does not fit; each mismatch is named.
        UsageError for a device that is not there and a scale that a family lacks.
    """
    where = device_named(device)
    path = find(model, scale=settings.get("scale"))
    downloaded = next((known for known in downloads().values() if place(known) == path), None)
    if downloaded is not None:  # the tensors of PAN do not say it
        settings = {"scale": downloaded.scale} | settings
    tensors, metadata = read_tensors(path)
    if is_ours(metadata):
        network = build(path, tensors, metadata)
    else:
        try:
            return build_published(path, tensors, settings).to(where)
        except UnknownNetwork as error:
            network = _by_spandrel(path, tensors, error)
    for name, value in settings.items():
        if getattr(network.config, name, None) != value:
            raise CheckpointError(f"{path}: holds its own config; {name} cannot be set to {value}")
    return network.to(where)


def _by_spandrel(path: Path, tensors: dict[str, Tensor], unknown: UnknownNetwork) -> Network:
    """The network of a file that is none of ours, if spandrel knows it. Raises: CheckpointError if it does not."""
    from nlsr.weights.foreign import build_foreign, is_installed

    if not is_installed():
        raise CheckpointError(f"{unknown}; spandrel knows many more networks: {installing('spandrel')}") from unknown
    network = build_foreign(path, tensors)
    if network is None:
        raise CheckpointError(f"{unknown}; spandrel does not know it either") from unknown
    return network


def find(model: str | Path, *, scale: int | None = None) -> Path:
    """The file of a name of weights on this machine or of a family of them, or of a path.

    Args:
        scale: decides between the members of a family, of which the largest is the default.
    Raises: ModelNotFoundError (a CheckpointError) if there is neither, UsageError for a scale that a family lacks.
    """
    known, members = available(), family(str(model))
    if str(model) in known:
        return known[str(model)]
    if members:
        if scale is not None and scale not in members:
            there_is = ", ".join(f"x{each}" for each in members)
            raise UsageError(f"the model {model} has no scale {scale}; there is {there_is}")
        return known[members[scale or max(members)]]
    if Path(model).exists() or Path(model).suffix:
        return Path(model)
    if get := [name for name in downloads() if str(model) in (name, name.rpartition("-x")[0])]:
        raise ModelNotFoundError(f"{model} is not on this machine; get it with: nlsr weights get {get[-1]}")
    raise ModelNotFoundError(f"no model is named '{model}' and no such file exists; there are: {', '.join(known)}")


def looked_into() -> str:
    """The model whose attention is looked at where none is named: the default, or if it has none, the first family of
    weights inside the package that has; the default again if there is no such family."""
    families = dict.fromkeys(name.rpartition("-x")[0] for name in packaged())
    return next((name for name in (DEFAULT_MODEL, *families) if attentions(find(name))), DEFAULT_MODEL)
