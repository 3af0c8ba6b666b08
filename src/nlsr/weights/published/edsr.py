"""Files of LCoAN, NLSN, DLSN and ENLCN: their repositories descend from EDSR's and share its head and tail."""

import re
from typing import Any

from nlsr.weights.published.published import Published, Rules, Tensors, count


def _lcoan_sizes(tensors: Tensors) -> dict[str, Any]:
    channels = tensors["head.0.weight"].shape[0]
    rounds, num_clusters, width = tensors["body.0.attention.0.kmeans.means"].shape
    return {
        "scale": _edsr_scale(tensors),
        "channels": channels,
        "num_groups": count(tensors, r"body\.(\d+)\.m_conv\.0\.weight"),
        "num_blocks": count(tensors, r"body\.0\.local_body\.(\d+)\.body\.0\.weight"),
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
    last = count(tensors, r"body\.(\d+)\.weight") - 1
    return [
        *_edsr_ends(config),
        (rf"body\.{last}\.(weight|bias)", r"fuse.\1"),
        (r"body\.(\d+)\.conv_assembly\.0\.(weight|bias)", r"body.\1.values.\2"),
        (r"body\.(\d+)\.body\.0\.(weight|bias)", r"body.\1.first.\2"),
        (r"body\.(\d+)\.body\.2\.(weight|bias)", r"body.\1.second.\2"),
    ]


def _dlsn_sizes(tensors: Tensors) -> dict[str, Any]:
    channels = tensors["head.0.weight"].shape[0]
    num_blocks = count(tensors, r"body\.0\.body\.(\d+)\.body\.0\.weight")
    return {
        "scale": _edsr_scale(tensors),
        "channels": channels,
        "num_groups": count(tensors, r"body\.(\d+)\.body\.0\.body\.0\.weight"),
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


PUBLISHED = {
    "dlsn": Published(r"body\.0\.body\.\d+\.fc\.0\.weight", _dlsn_sizes, _dlsn_rules),
    "enlcn": Published(r"body\.0\.conv_match1\.0\.weight", _enlcn_sizes, _enlcn_rules),
    "lcoan": Published(r"body\.0\.local_body\.0\.body\.0\.weight", _lcoan_sizes, _lcoan_rules),
    "nlsn": Published(r"body\.0\.conv_match\.0\.weight", _nlsn_sizes, _nlsn_rules),
}
