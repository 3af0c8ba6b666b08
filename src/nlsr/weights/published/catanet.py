"""Files of CATANet."""

import re
from typing import Any

from nlsr.weights.published.published import END, WEIGHT, Published, Rules, Tensors, commonest_size, count, layers
from nlsr.weights.published.window_transformer import FEED_FORWARD


def _catanet_sizes(tensors: Tensors) -> dict[str, Any]:
    means = {int(m[1]): t.shape[0] for name, t in tensors.items() if (m := re.fullmatch(MEANS, name))}
    return {
        "scale": _scale(tensors),
        "channels": commonest_size(tensors, r"first_conv\.weight|mid_convs\.\d+\.weight"),
        "width": commonest_size(tensors, r"blocks\.\d+\.0\.(iasa|irca)_attn\.to_[qk]\.weight"),
        "hidden": commonest_size(tensors, r".*\.fn\.fc1\.weight"),
        "num_centres": tuple(means[index] for index in range(count(tensors, MEANS))),
    }


MATRICES = {"to_q": "operator.query", "to_k": "operator.key", "to_v": "values", "proj": "project"}
CENTRES = {"k": "key", "v": "values"}
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
    block = r"blocks\.(\d+)\."
    aggregation, local = rf"{block}0\.", rf"{block}1\.layer\."
    rules: Rules = [
        ("first_conv" + END, r"head.\1"),
        ("last_conv" + END, r"tail.\1"),
        (r"upconv1?" + END, r"upsample.0.conv.\1"),
        ("upconv2" + END, r"upsample.1.conv.\1"),
        (r"mid_convs\.(\d+)" + END, r"blocks.\1.fuse.\2"),
        (f"{aggregation}means", r"blocks.\1.aggregation.operator.centres.means"),
        (f"{aggregation}initted", r"blocks.\1.aggregation.operator.centres.initialised"),
        (rf"{aggregation}conv1x1\.weight", r"blocks.\1.aggregation.mix.weight"),
        (f"{aggregation}norm{END}", r"blocks.\1.aggregation.norm.\2"),
        *layers(rf"{aggregation}iasa_attn\.", r"blocks.\1.aggregation.", MATRICES, WEIGHT),
        *layers(rf"{aggregation}irca_attn\.to_", r"blocks.\1.aggregation.centre_", CENTRES, WEIGHT),
        (rf"{local}0\.norm{END}", r"blocks.\1.local.norm.\2"),
        *layers(rf"{local}0\.fn\.", r"blocks.\1.local.", MATRICES, WEIGHT),
    ]
    for prefix, ours in ((rf"{aggregation}mlp\.", "first"), (rf"{local}1\.", "second")):
        rules.append((f"{prefix}norm{END}", rf"blocks.\1.{ours}_feed_forward.norm.\2"))
        rules += layers(rf"{prefix}fn\.", rf"blocks.\1.{ours}_feed_forward.", FEED_FORWARD)
    return rules


PUBLISHED = {"catanet": Published(_catanet_sizes, _catanet_rules)}
