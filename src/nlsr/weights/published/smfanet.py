"""Files of SMFANet and SMFANet+."""

import math
from typing import Any

from nlsr.weights.published.published import END, Published, Rules, Tensors, commonest_size, count, layers


def _smfanet_sizes(tensors: Tensors) -> dict[str, Any]:
    channels = commonest_size(tensors, r"to_feat\.weight|feats\.\d+\.smfa\.linear_[12]\.weight")
    hidden = commonest_size(tensors, r"feats\.\d+\.pcfn\.conv_0\.weight")
    return {
        "scale": math.isqrt(commonest_size(tensors, r"to_img\.0\.weight") // 3),
        "channels": channels,
        "num_blocks": count(tensors, r"feats\.(\d+)\..*"),
        "expansion": hidden // channels,
    }


def _smfanet_rules(tensors: Tensors, config: Any) -> Rules:
    block = r"feats\.(\d+)\."
    modulation = {
        "linear_0": "split",
        "linear_1": "modulate",
        "linear_2": "join",
        "dw_conv": "pooled",
        r"lde\.conv_0\.0": "local_depthwise",
        r"lde\.conv_0\.1": "local_mix",
        r"lde\.conv_1": "local_join",
    }
    feed_forward = {"conv_0": "widen", "conv_1": "convolve", "conv_2": "join"}
    return [
        ("to_feat" + END, r"head.\1"),
        (r"to_img\.0" + END, r"upsample.0.\1"),
        (block + r"smfa\.alpha", r"blocks.\1.modulation.pooled_share"),
        (block + r"smfa\.belt", r"blocks.\1.modulation.variance_share"),
        *layers(block + r"smfa\.", r"blocks.\1.modulation.", modulation),
        *layers(block + r"pcfn\.", r"blocks.\1.feed_forward.", feed_forward),
    ]


PUBLISHED = {"smfanet": Published(_smfanet_sizes, _smfanet_rules)}
