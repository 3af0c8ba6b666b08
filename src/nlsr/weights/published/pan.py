"""Files of PAN."""

from typing import Any

from nlsr.weights.published.published import Published, Rules, Tensors, commonest_size, count


def _pan_sizes(tensors: Tensors) -> dict[str, Any]:
    sizes: dict[str, Any] = {
        "channels": commonest_size(tensors, r"conv_first\.weight|trunk_conv\.weight|SCPA_trunk\.\d+\.conv3\.weight"),
        "upsampler_channels": commonest_size(tensors, r"(upconv|HRconv)\d\.weight"),
        "num_blocks": count(tensors, r"SCPA_trunk\.(\d+)\..*"),
    }
    twice = any(name.startswith("upconv2.") for name in tensors)  # x2 and x3 have equal tensors
    return sizes | ({"scale": 4} if twice else {})


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


PUBLISHED = {"pan": Published(_pan_sizes, _pan_rules)}
