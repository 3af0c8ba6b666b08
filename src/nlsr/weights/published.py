"""Weight files as their authors published them: which network a file holds, its sizes, and its names in ours.

Published parameter spellings live here and nowhere else.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nlsr.errors import CheckpointError
from nlsr.networks import NETWORKS, Network
from nlsr.networks.parts import DIV2K_MEAN
from nlsr.weights.checkpoint import fill, shorten

Tensors = dict[str, Tensor]
Rules = list[tuple[str, str | None]]


@dataclass(frozen=True)
class Published:
    """How to recognise and read the files of one network."""

    mark: str
    """A pattern for the name of a tensor that files of this network have, and no others."""
    sizes: Callable[[Tensors], dict[str, Any]]
    """What names and shapes say of the config; KeyError, ValueError or ZeroDivisionError where they are not whole."""
    rules: Callable[[Tensors, Any], Rules]
    """Published names to ours, given tensors and config."""


def build_published(path: str | Path, tensors: Tensors, overrides: dict[str, Any]) -> Network:
    """The network of a published file, in eval mode.

    Sizes come from names and shapes. What they do not determine (window size, residual scale, PAN's scale 2 or 3)
    takes the published value unless overridden.

    Raises: CheckpointError if the file is of no known network, or not complete; every mismatch is named.
    """
    name = next((name for name, published in PUBLISHED.items() if _has(tensors, published.mark)), None)
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


def _lcoan_sizes(tensors: Tensors) -> dict[str, Any]:
    channels = tensors["head.0.weight"].shape[0]
    rounds, num_clusters, width = tensors["body.0.attention.0.kmeans.means"].shape
    return {
        "scale": _edsr_scale(tensors),
        "channels": channels,
        "num_groups": _count(tensors, r"body\.(\d+)\.m_conv\.0\.weight"),
        "num_blocks": _count(tensors, r"body\.0\.local_body\.(\d+)\.body\.0\.weight"),
        "reduction": max(1, channels // width),
        "num_clusters": num_clusters,
        "rounds": rounds,
        "centroid_learning": "frozen",
    }


def _lcoan_rules(tensors: Tensors, config: Any) -> Rules:
    attention = r"body\.0\.attention\.0\."
    return [
        *_edsr_ends(config),
        (r"body\.(\d+)\.local_body\.(\d+)\.body\.0\.(weight|bias)", r"groups.\1.blocks.\2.first.\3"),
        (r"body\.(\d+)\.local_body\.(\d+)\.body\.2\.(weight|bias)", r"groups.\1.blocks.\2.second.\3"),
        (attention + r"kmeans\.means", r"groups.0.attention.operator.kmeans.centroids"),
        (attention + r"kmeans\.initted", r"groups.0.attention.operator.kmeans.initialised"),
        (attention + r"conv_match\.0\.(weight|bias)", r"groups.0.attention.operator.embed.\1"),
        (r"body\.(\d+)\.attention\.0\.conv_assembly\.0\.(weight|bias)", r"groups.\1.attention.values.\2"),
        (r"body\.(\d+)\.m_conv\.0\.(weight|bias)", r"groups.\1.fuse.\2"),
        (r"m_conv\.0\.(weight|bias)", r"fuse.\1"),
        # Never used by the published network: the matching of groups that reuse.
        (r"body\.\d+\.attention\.0\.(kmeans\.(means|initted)|conv_match\.0\.(weight|bias))", None),
    ]


def _nlsn_sizes(tensors: Tensors) -> dict[str, Any]:
    return _interleaved_sizes(tensors, "body.0.conv_match.0.weight")


def _nlsn_rules(tensors: Tensors, config: Any) -> Rules:
    embed = (r"body\.(\d+)\.conv_match\.0\.(weight|bias)", r"body.\1.operator.embed.\2")
    return [*_interleaved_rules(tensors, config), embed]


def _enlcn_sizes(tensors: Tensors) -> dict[str, Any]:
    num_features = tensors["body.0.attn_fn.projection_matrix"].shape[0]
    return _interleaved_sizes(tensors, "body.0.conv_match1.0.weight") | {"num_features": num_features}


def _enlcn_rules(tensors: Tensors, config: Any) -> Rules:
    return [
        *_interleaved_rules(tensors, config),
        (r"body\.(\d+)\.conv_match1\.0\.(weight|bias)", r"body.\1.operator.query.\2"),
        (r"body\.(\d+)\.conv_match2\.0\.(weight|bias)", r"body.\1.operator.key.\2"),
        (r"body\.(\d+)\.attn_fn\.projection_matrix", r"body.\1.operator.projection"),
    ]


def _interleaved_sizes(tensors: Tensors, embedding: str) -> dict[str, Any]:
    """Of NLSN and ENLCN, whose blocks and attentions stand in one row."""
    channels = tensors["head.0.weight"].shape[0]
    return {
        "scale": _edsr_scale(tensors),
        "channels": channels,
        "num_blocks": sum(bool(re.fullmatch(r"body\.\d+\.body\.0\.weight", name)) for name in tensors),
        "reduction": channels // tensors[embedding].shape[0],
    }


def _interleaved_rules(tensors: Tensors, config: Any) -> Rules:
    last = _count(tensors, r"body\.(\d+)\.weight") - 1
    return [
        *_edsr_ends(config),
        (rf"body\.{last}\.(weight|bias)", r"fuse.\1"),
        (r"body\.(\d+)\.conv_assembly\.0\.(weight|bias)", r"body.\1.values.\2"),
        (r"body\.(\d+)\.body\.0\.(weight|bias)", r"body.\1.first.\2"),
        (r"body\.(\d+)\.body\.2\.(weight|bias)", r"body.\1.second.\2"),
    ]


def _dlsn_sizes(tensors: Tensors) -> dict[str, Any]:
    channels = tensors["head.0.weight"].shape[0]
    num_blocks = _count(tensors, r"body\.0\.body\.(\d+)\.body\.0\.weight")
    return {
        "scale": _edsr_scale(tensors),
        "channels": channels,
        "num_groups": _count(tensors, r"body\.(\d+)\.body\.0\.body\.0\.weight"),
        "num_blocks": num_blocks,
        "reduction": channels // tensors[f"body.0.body.{num_blocks}.conv_match.0.weight"].shape[0],
        "chunk_size": tensors[f"body.0.body.{num_blocks}.fc.0.weight"].shape[0],
    }


def _dlsn_rules(tensors: Tensors, config: Any) -> Rules:
    blocks, end = config.num_blocks, r"\.(weight|bias)"
    attention = rf"body\.(\d+)\.body\.{blocks}\."
    return [
        *_edsr_ends(config),
        (rf"body\.{config.num_groups}" + end, r"fuse.\1"),
        (rf"body\.(\d+)\.body\.{blocks + 1}" + end, r"groups.\1.fuse.\2"),
        (attention + r"conv_match\.0" + end, r"groups.\1.attention.operator.embed.0.\2"),
        (attention + r"conv_assembly_fc\.0" + end, r"groups.\1.attention.operator.embed_score.0.\2"),
        (attention + r"conv_assembly\.0" + end, r"groups.\1.attention.values.0.\2"),
        (attention + r"fc\.([02])" + end, r"groups.\1.attention.operator.score.\2.\3"),
        (r"body\.(\d+)\.body\.(\d+)\.body\.0" + end, r"groups.\1.blocks.\2.first.\3"),
        (r"body\.(\d+)\.body\.(\d+)\.body\.2" + end, r"groups.\1.blocks.\2.second.\3"),
    ]


def _edsr_scale(tensors: Tensors) -> int:
    """Of the tail that the descendants of EDSR share."""
    factor = {4: 2, 9: 3}[tensors["tail.0.0.weight"].shape[0] // tensors["head.0.weight"].shape[0]]
    return 4 if "tail.0.2.weight" in tensors else factor


def _edsr_ends(config: Any) -> Rules:
    """Head, tail, and what is never used: fixed colour shifts and a scalar."""
    return [
        (r"head\.0\.(weight|bias)", r"head.\1"),
        (r"tail\.0\.([02])\.(weight|bias)", r"upsample.\1.\2"),
        (r"tail\.1\.(weight|bias)", rf"upsample.{4 if config.scale == 4 else 2}.\1"),
        (r"a|(sub|add)_mean\.(weight|bias)", None),
    ]


def _pan_sizes(tensors: Tensors) -> dict[str, Any]:
    sizes: dict[str, Any] = {
        "channels": tensors["conv_first.weight"].shape[0],
        "upsampler_channels": tensors["upconv1.weight"].shape[0],
        "num_blocks": _count(tensors, r"SCPA_trunk\.(\d+)\.conv3\.weight"),
    }
    return sizes | ({"scale": 4} if "upconv2.weight" in tensors else {})  # x2 and x3 have equal tensors


def _pan_rules(tensors: Tensors, config: Any) -> Rules:
    block, end = r"SCPA_trunk\.(\d+)\.", r"\.(weight|bias)"
    rules: Rules = [
        ("conv_first" + end, r"head.\1"),
        (block + "conv1_a" + end, r"blocks.\1.plain_in.\2"),
        (block + "conv1_b" + end, r"blocks.\1.gated_in.\2"),
        (block + r"k1\.0" + end, r"blocks.\1.plain.\2"),
        (block + r"PAConv\.k2" + end, r"blocks.\1.gated.gate.\2"),
        (block + r"PAConv\.k3" + end, r"blocks.\1.gated.first.\2"),
        (block + r"PAConv\.k4" + end, r"blocks.\1.gated.second.\2"),
        (block + "conv3" + end, r"blocks.\1.join.\2"),
        ("trunk_conv" + end, r"fuse.\1"),
        ("conv_last" + end, r"tail.\1"),
    ]
    for stage in (0, 1):
        rules += [
            (f"upconv{stage + 1}" + end, rf"upsample.{stage}.first.\1"),
            (rf"att{stage + 1}\.conv" + end, rf"upsample.{stage}.attention.gate.\1"),
            (f"HRconv{stage + 1}" + end, rf"upsample.{stage}.second.\1"),
        ]
    return rules


PUBLISHED = {
    "dlsn": Published(r"body\.0\.body\.\d+\.fc\.0\.weight", _dlsn_sizes, _dlsn_rules),
    "enlcn": Published(r"body\.0\.conv_match1\.0\.weight", _enlcn_sizes, _enlcn_rules),
    "lcoan": Published(r"body\.0\.local_body\.0\.body\.0\.weight", _lcoan_sizes, _lcoan_rules),
    "nlsn": Published(r"body\.0\.conv_match\.0\.weight", _nlsn_sizes, _nlsn_rules),
    "pan": Published(r"SCPA_trunk\.0\.conv3\.weight", _pan_sizes, _pan_rules),
}


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


def _has(tensors: Tensors, pattern: str) -> bool:
    return any(re.fullmatch(pattern, name) for name in tensors)


def _count(tensors: Tensors, pattern: str) -> int:
    found = [int(m[1]) for name in tensors if (m := re.fullmatch(pattern, name))]
    return max(found, default=-1) + 1
