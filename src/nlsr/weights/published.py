"""Weight files as their authors published them: which network a file holds, its sizes, and its names in ours.

Published parameter spellings live here and nowhere else.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nlsr.errors import CheckpointError
from nlsr.networks import LCoAN, LCoANConfig, Network
from nlsr.networks.parts import DIV2K_MEAN
from nlsr.weights.checkpoint import fill, shorten


def build_published(path: str | Path, tensors: dict[str, Tensor], overrides: dict[str, Any]) -> Network:
    """The network of a published file, in eval mode.

    Sizes come from names and shapes. What they do not determine (window size, residual scale) takes the published
    value unless overridden.

    Raises: CheckpointError if the file is of no known network, or not complete; every mismatch is named.
    """
    if not any(re.fullmatch(r"body\.0\.local_body\.0\.body\.0\.weight", name) for name in tensors):
        some = ", ".join(list(tensors)[:3])
        raise CheckpointError(
            f"{path}: not a weight file of a known network (lcoan); its tensors are named {some}, ..."
        )
    config = _lcoan_config(path, tensors, overrides)
    renamed = _lcoan_names(path, config, tensors)
    with torch.random.fork_rng(devices=[]):
        network = LCoAN(config)
    return fill(path, network, renamed)


def _lcoan_config(path: str | Path, tensors: dict[str, Tensor], overrides: dict[str, Any]) -> LCoANConfig:
    try:
        channels = tensors["head.0.weight"].shape[0]
        rounds, num_clusters, width = tensors["body.0.attention.0.kmeans.means"].shape
        factor = {4: 2, 9: 3}[tensors["tail.0.0.weight"].shape[0] // channels]
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path}: looks like lcoan, but 'head.0.weight', 'body.0.attention.0.kmeans.means' or 'tail.0.0.weight' "
            "is missing or misshapen, so its sizes are unknown"
        ) from error
    found: dict[str, Any] = {
        "scale": 4 if "tail.0.2.weight" in tensors else factor,
        "channels": channels,
        "num_groups": _count(tensors, r"body\.(\d+)\.m_conv\.0\.weight"),
        "num_blocks": _count(tensors, r"body\.0\.local_body\.(\d+)\.body\.0\.weight"),
        "reduction": max(1, channels // width),
        "num_clusters": num_clusters,
        "rounds": rounds,
        "centroid_learning": "frozen",
    }
    known = set(LCoANConfig.__dataclass_fields__)
    for name, value in overrides.items():
        if name not in known:
            raise CheckpointError(f"{path}: lcoan has no setting '{name}'; it has {', '.join(sorted(known))}")
        if name in found and found[name] != value:
            raise CheckpointError(f"{path}: the tensors say {name} = {found[name]}, asked for was {value}")
    return LCoANConfig(**(found | overrides))


def _lcoan_names(path: str | Path, config: LCoANConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    _check_mean(path, tensors)
    if not bool(tensors.get("body.0.attention.0.kmeans.initted", torch.tensor(False))):
        raise CheckpointError(f"{path}: its clusters were never started; the file was saved before any training")
    last = 4 if config.scale == 4 else 2
    attention = r"body\.0\.attention\.0\."
    rules = [
        (r"head\.0\.(weight|bias)", r"head.\1"),
        (r"body\.(\d+)\.local_body\.(\d+)\.body\.0\.(weight|bias)", r"groups.\1.blocks.\2.first.\3"),
        (r"body\.(\d+)\.local_body\.(\d+)\.body\.2\.(weight|bias)", r"groups.\1.blocks.\2.second.\3"),
        (attention + r"kmeans\.means", r"groups.0.attention.operator.kmeans.centroids"),
        (attention + r"kmeans\.initted", r"groups.0.attention.operator.kmeans.initialised"),
        (attention + r"conv_match\.0\.(weight|bias)", r"groups.0.attention.operator.embed.\1"),
        (r"body\.(\d+)\.attention\.0\.conv_assembly\.0\.(weight|bias)", r"groups.\1.attention.values.\2"),
        (r"body\.(\d+)\.m_conv\.0\.(weight|bias)", r"groups.\1.fuse.\2"),
        (r"m_conv\.0\.(weight|bias)", r"fuse.\1"),
        (r"tail\.0\.([02])\.(weight|bias)", r"upsample.\1.\2"),
        (r"tail\.1\.(weight|bias)", rf"upsample.{last}.\1"),
        # Never used by the published network: a scalar, fixed colour shifts, the matching of groups that reuse.
        (r"a|(sub|add)_mean\.(weight|bias)", None),
        (r"body\.\d+\.attention\.0\.(kmeans\.(means|initted)|conv_match\.0\.(weight|bias))", None),
    ]
    renamed, unknown = _rename(tensors, rules)
    if unknown:
        raise CheckpointError(f"{path}: looks like lcoan, but has unexpected tensors: {shorten(unknown)}")
    clusters = (config.rounds, config.num_clusters)
    renamed["groups.0.attention.operator.kmeans.idle"] = torch.zeros(clusters, dtype=torch.int64)
    return renamed


def _rename(tensors: dict[str, Tensor], rules: list[tuple[str, str | None]]) -> tuple[dict[str, Tensor], list[str]]:
    """Names by the first rule that matches the whole name (None drops the tensor), and names without a rule."""
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
    return renamed, unknown


def _check_mean(path: str | Path, tensors: dict[str, Tensor]) -> None:
    """A network for values up to 255, or trained on another mean, would load and give wrong colours."""
    for name, sign in (("sub_mean.bias", -1), ("add_mean.bias", 1)):
        expected = sign * torch.tensor(DIV2K_MEAN)
        if name in tensors and not torch.allclose(tensors[name].float(), expected, atol=1e-4):
            raise CheckpointError(f"{path}: expected '{name}' {expected.tolist()}, got {tensors[name].tolist()}")


def _count(tensors: dict[str, Tensor], pattern: str) -> int:
    found = [int(m[1]) for name in tensors if (m := re.fullmatch(pattern, name))]
    return max(found, default=-1) + 1
