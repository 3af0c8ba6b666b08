"""From a published weight file to the network it holds: which one, of which sizes, with every tensor in its place."""

import re
from pathlib import Path
from typing import Any

import torch

from nlsr.errors import CheckpointError
from nlsr.networks import NETWORKS, Network
from nlsr.networks.parts import DIV2K_MEAN
from nlsr.weights.checkpoint import fill, shorten
from nlsr.weights.published import PUBLISHED, Rules, Tensors, has


def build_published(path: str | Path, tensors: Tensors, overrides: dict[str, Any]) -> Network:
    """The network of a published file, in eval mode.

    Sizes come from names and shapes. What they do not determine (window size, residual scale, PAN's scale 2 or 3)
    takes the published value unless overridden.

    Raises: CheckpointError if the file is of no known network, or not complete; every mismatch is named.
    """
    name = next((name for name, published in PUBLISHED.items() if has(tensors, published.mark)), None)
    if name is None:
        known, some = ", ".join(PUBLISHED), ", ".join(list(tensors)[:3])
        raise CheckpointError(f"{path}: not a weight file of a known network ({known}); its tensors are: {some}, ...")
    config_type, network_type = NETWORKS[name]
    try:
        found = PUBLISHED[name].sizes(tensors)
    except (KeyError, ValueError, ZeroDivisionError, IndexError) as error:
        raise CheckpointError(
            f"{path}: looks like {name}, but a tensor that says its sizes is not right: {error}"
        ) from error
    _check_overrides(path, name, config_type, found, overrides)
    config = config_type(**(found | overrides))
    renamed = _rename(path, name, tensors, PUBLISHED[name].rules(tensors, config))
    _check_values(path, tensors)
    with torch.random.fork_rng(devices=[]):
        network = network_type(config)
    for buffer, value in network.named_buffers():  # counters that published files do not have
        if buffer.endswith(".idle"):
            renamed[buffer] = value
    return fill(path, network, renamed)


def _check_overrides(
    path: str | Path, network: str, config_type: type[Any], found: dict[str, Any], overrides: dict[str, Any]
) -> None:
    known = sorted(config_type.__dataclass_fields__)
    for name, value in overrides.items():
        if name not in known:
            raise CheckpointError(f"{path}: {network} has no setting '{name}'; it has {', '.join(known)}")
        if name in found and found[name] != value:
            raise CheckpointError(f"{path}: the tensors say {name} = {found[name]}, asked for was {value}")
    if "scale" not in found | overrides:
        raise CheckpointError(f"{path}: a {network} file at x2 or x3, which have equal tensors; say scale=2 or scale=3")


def _rename(path: str | Path, network: str, tensors: Tensors, rules: Rules) -> Tensors:
    """Names by the first rule that matches the whole name; None drops the tensor."""
    renamed, unknown = {}, []
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            match = re.fullmatch(pattern, name)
            if match:
                if replacement is not None:
                    renamed[match.expand(replacement)] = tensor
                break
        else:
            unknown.append(f"'{name}'")
    if unknown:
        raise CheckpointError(f"{path}: looks like {network}, but has unexpected tensors: {shorten(unknown)}")
    return renamed


def _check_values(path: str | Path, tensors: Tensors) -> None:
    """What would load without complaint and give wrong pictures: another mean colour, clusters never started."""
    for name, sign in (("sub_mean.bias", -1), ("add_mean.bias", 1)):
        expected = sign * torch.tensor(DIV2K_MEAN)
        if name in tensors and not torch.allclose(tensors[name].float(), expected, atol=1e-4):
            raise CheckpointError(f"{path}: expected '{name}' {expected.tolist()}, got {tensors[name].tolist()}")
    started = tensors.get("body.0.attention.0.kmeans.initted")
    if started is not None and not bool(started):
        raise CheckpointError(f"{path}: its clusters were never started; the file was saved before any training")
