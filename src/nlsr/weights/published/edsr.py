"""Files of LCoAN, NLAN, NLSN, DLSN and ENLCN: their repositories descend from EDSR's and share its head and tail."""

import re
from typing import Any

from nlsr.weights.published.published import Published, Rules, Tensors, commonest_size, count


def _lcoan_sizes(tensors: Tensors) -> dict[str, Any]:
    channels = commonest_size(tensors, r"body\.\d+\.local_body\.\d+\.body\.[02]\.weight")
    means = r"body\.\d+\.attention\.0\.kmeans\.means"
    rounds, num_clusters, width = (commonest_size(tensors, means, axis) for axis in range(3))
    return {
        "scale": _edsr_scale(tensors, channels),
        "channels": channels,
        "num_groups": count(tensors, r"body\.(\d+)\.m_conv\.0\.weight"),
        "num_blocks": count(tensors, r"body\.\d+\.local_body\.(\d+)\.body\.[02]\.weight"),
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
    return _interleaved_sizes(tensors, r"body\.\d+\.conv_match\.0\.weight")


def _nlsn_rules(tensors: Tensors, config: Any) -> Rules:
    embed = (r"body\.(\d+)\.conv_match\.0\.(weight|bias)", r"body.\1.operator.embed.\2")
    return [*_interleaved_rules(tensors, config), embed]


def _enlcn_sizes(tensors: Tensors) -> dict[str, Any]:
    num_features = commonest_size(tensors, r"body\.\d+\.attn_fn\.projection_matrix")
    return _interleaved_sizes(tensors, r"body\.\d+\.conv_match1\.0\.weight") | {"num_features": num_features}


def _enlcn_rules(tensors: Tensors, config: Any) -> Rules:
    return [
        *_interleaved_rules(tensors, config),
        (r"body\.(\d+)\.conv_match1\.0\.(weight|bias)", r"body.\1.operator.query.\2"),
        (r"body\.(\d+)\.conv_match2\.0\.(weight|bias)", r"body.\1.operator.key.\2"),
        (r"body\.(\d+)\.attn_fn\.projection_matrix", r"body.\1.operator.projection"),
    ]


def _interleaved_sizes(tensors: Tensors, embedding: str) -> dict[str, Any]:
    """Sizes of NLSN and ENLCN, whose blocks and attentions stand in one row."""
    channels = commonest_size(tensors, r"body\.\d+\.body\.[02]\.weight")
    blocks = {m[1] for name in tensors if (m := re.fullmatch(r"body\.(\d+)\.body\.[02]\.weight", name))}
    return {
        "scale": _edsr_scale(tensors, channels),
        "channels": channels,
        "num_blocks": len(blocks),
        "reduction": channels // commonest_size(tensors, embedding),
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
    sizes = _grouped_sizes(tensors, r"body\.\d+\.body\.\d+\.conv_match\.0\.weight")
    return sizes | {"chunk_size": commonest_size(tensors, r"body\.\d+\.body\.\d+\.fc\.2\.weight")}


def _nlan_sizes(tensors: Tensors) -> dict[str, Any]:
    return _grouped_sizes(tensors, r"body\.\d+\.body\.\d+\.conv_match1\.0\.weight")


def _grouped_sizes(tensors: Tensors, embedding: str) -> dict[str, Any]:
    """Sizes of DLSN and NLAN, whose groups end in an attention."""
    block = r"body\.\d+\.body\.(\d+)\.body\.[02]\.weight"
    channels = commonest_size(tensors, block)
    return {
        "scale": _edsr_scale(tensors, channels),
        "channels": channels,
        "num_groups": count(tensors, r"body\.(\d+)\.body\.\d+\.body\.[02]\.weight"),
        "num_blocks": count(tensors, block),
        "reduction": channels // commonest_size(tensors, embedding),
    }


def _dlsn_rules(tensors: Tensors, config: Any) -> Rules:
    attention, end = rf"body\.(\d+)\.body\.{config.num_blocks}\.", r"\.(weight|bias)"
    return [
        *_grouped_rules(config),
        (attention + r"conv_match\.0" + end, r"groups.\1.attention.operator.embed.0.\2"),
        (attention + r"conv_assembly_fc\.0" + end, r"groups.\1.attention.operator.embed_score.0.\2"),
        (attention + r"conv_assembly\.0" + end, r"groups.\1.attention.values.0.\2"),
        (attention + r"fc\.([02])" + end, r"groups.\1.attention.operator.score.\2.\3"),
    ]


def _nlan_rules(tensors: Tensors, config: Any) -> Rules:
    attention, end = rf"body\.(\d+)\.body\.{config.num_blocks}\.", r"\.([01])\.(weight|bias)"
    return [
        *_grouped_rules(config),
        (attention + "conv_match1" + end, r"groups.\1.attention.operator.query.\2.\3"),
        (attention + "conv_match2" + end, r"groups.\1.attention.operator.key.\2.\3"),
        (attention + "conv_assembly" + end, r"groups.\1.attention.values.\2.\3"),
    ]


def _grouped_rules(config: Any) -> Rules:
    end = r"\.(weight|bias)"
    return [
        *_edsr_ends(config),
        (rf"body\.{config.num_groups}" + end, r"fuse.\1"),
        (rf"body\.(\d+)\.body\.{config.num_blocks + 1}" + end, r"groups.\1.fuse.\2"),
        (r"body\.(\d+)\.body\.(\d+)\.body\.0" + end, r"groups.\1.blocks.\2.first.\3"),
        (r"body\.(\d+)\.body\.(\d+)\.body\.2" + end, r"groups.\1.blocks.\2.second.\3"),
    ]


def _edsr_scale(tensors: Tensors, channels: int) -> int:
    """The scale of the tail that the descendants of EDSR share."""
    if "tail.0.2.weight" in tensors:
        return 4
    return {4: 2, 9: 3}[commonest_size(tensors, r"tail\.0\.0\.(weight|bias)") // channels]


def _edsr_ends(config: Any) -> Rules:
    """Head, tail, and what is never used: fixed colour shifts and a scalar."""
    return [
        (r"head\.0\.(weight|bias)", r"head.\1"),
        (r"tail\.1\.(weight|bias)", rf"upsample.{4 if config.scale == 4 else 2}.\1"),
        (r"tail\.0\.([02])\.(weight|bias)", r"upsample.\1.\2"),
        (r"a|(sub|add)_mean\.(weight|bias)", None),
    ]


ENDS = (r"head\.0\.weight", r"tail\.1\.(weight|bias)")
_END = r"\.(weight|bias)"
_HERE = r"head\.0|tail\.1|tail\.0\.[02]|body\.\d+|(sub|add)_mean"
_IN_BASICSR = r"conv_first|conv_after_body|upsample\.\d+|conv_last"

RELATIVES = {
    "EDSR": [
        (rf"body\.\d+\.body\.[02]{_END}", rf"({_HERE}){_END}"),
        (rf"body\.\d+\.conv[12]{_END}", rf"({_IN_BASICSR}){_END}"),
    ],
    "RCAN": [
        (
            rf"body\.\d+\.body\.\d+\.body\.3\.conv_du\.[02]{_END}",
            rf"({_HERE}|body\.\d+\.body\.\d+(\.body\.[02])?){_END}",
        ),
        (
            rf"body\.\d+\.residual_group\.\d+\.rcab\.3\.attention\.[13]{_END}",
            rf"({_IN_BASICSR}|body\.\d+\.(conv|residual_group\.\d+\.rcab\.[02])){_END}",
        ),
    ],
}
"""Networks that share these names without being one of ours -> for each spelling, the names of blocks, of which there
must be some, and all other names."""

PUBLISHED = {
    "dlsn": Published(_dlsn_sizes, _dlsn_rules, ENDS),
    "enlcn": Published(_enlcn_sizes, _enlcn_rules, ENDS),
    "lcoan": Published(_lcoan_sizes, _lcoan_rules, ENDS),
    "nlan": Published(_nlan_sizes, _nlan_rules, ENDS),
    "nlsn": Published(_nlsn_sizes, _nlsn_rules, ENDS),
}
