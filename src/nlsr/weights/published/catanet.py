"""Files of CATANet."""

import re
from typing import Any

from nlsr.weights.published.published import Published, Rules, Tensors, commonest_size, count

FEED_FORWARD = {"fc1": "expand", r"dwconv\.depthwise_conv\.0": "depthwise", "fc2": "project"}


def _catanet_sizes(tensors: Tensors) -> dict[str, Any]:
    means = {int(m[1]): t.shape[0] for name, t in tensors.items() if (m := re.fullmatch(MEANS, name))}
    return {
        "scale": _scale(tensors),
        "channels": commonest_size(tensors, r"first_conv\.weight|mid_convs\.\d+\.weight"),
        "width": commonest_size(tensors, r"blocks\.\d+\.0\.(iasa|irca)_attn\.to_[qk]\.weight"),
        "hidden": commonest_size(tensors, r".*\.fn\.fc1\.weight"),
        "num_centres": tuple(means[index] for index in range(count(tensors, MEANS))),
    }


MEANS = r"blocks\.(\d+)\.0\.means"


def _scale(tensors: Tensors) -> int:
    """No enlargement at x1, one at x2 and x3, two at x4."""
    if any(name.startswith("upconv1.") for name in tensors):
        return 4
    if not any(name.startswith("upconv.") for name in tensors):
        return 1
    ratio = commonest_size(tensors, r"upconv\.(weight|bias)") / commonest_size(tensors, r"first_conv\.(weight|bias)")
    return round(ratio**0.5)


def _catanet_rules(tensors: Tensors, config: Any) -> Rules:
    end, block = r"\.(weight|bias)", r"blocks\.(\d+)\."
    aggregation, local = rf"{block}0\.", rf"{block}1\.layer\."
    matrices = {
        r"iasa_attn\.to_q": "operator.query",
        r"iasa_attn\.to_k": "operator.key",
        r"iasa_attn\.to_v": "values",
        r"iasa_attn\.proj": "project",
        r"irca_attn\.to_k": "centre_key",
        r"irca_attn\.to_v": "centre_values",
    }
    rules: Rules = [
        ("first_conv" + end, r"head.\1"),
        ("last_conv" + end, r"tail.\1"),
        (r"upconv1?" + end, r"upsample.0.conv.\1"),
        ("upconv2" + end, r"upsample.1.conv.\1"),
        (r"mid_convs\.(\d+)" + end, r"blocks.\1.fuse.\2"),
        (f"{aggregation}means", r"blocks.\1.aggregation.operator.centres.means"),
        (f"{aggregation}initted", r"blocks.\1.aggregation.operator.centres.initialised"),
        (rf"{aggregation}conv1x1\.weight", r"blocks.\1.aggregation.mix.weight"),
        (f"{aggregation}norm{end}", r"blocks.\1.aggregation.norm.\2"),
        *(
            (rf"{aggregation}{theirs}\.weight", rf"blocks.\1.aggregation.{ours}.weight")
            for theirs, ours in matrices.items()
        ),
        (rf"{local}0\.norm{end}", r"blocks.\1.local.norm.\2"),
    ]
    for theirs, ours in {"to_q": "operator.query", "to_k": "operator.key", "to_v": "values", "proj": "project"}.items():
        rules.append((rf"{local}0\.fn\.{theirs}\.weight", rf"blocks.\1.local.{ours}.weight"))
    for prefix, ours in ((rf"{aggregation}mlp\.", "first"), (rf"{local}1\.", "second")):
        rules.append((f"{prefix}norm{end}", rf"blocks.\1.{ours}_feed_forward.norm.\2"))
        for theirs, part in FEED_FORWARD.items():
            rules.append((rf"{prefix}fn\.{theirs}{end}", rf"blocks.\1.{ours}_feed_forward.{part}.\2"))
    return rules


PUBLISHED = {"catanet": Published(_catanet_sizes, _catanet_rules)}
