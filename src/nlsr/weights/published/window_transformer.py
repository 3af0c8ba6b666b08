"""What files of ATD and PFT have in common."""

import math
from typing import Any

from nlsr.weights.published.published import END, Rules, Tensors, commonest_size, count, layers

LAYER = r"layers\.(\d+)\.residual_group\.layers\.(\d+)\."
FEED_FORWARD = {"fc1": "expand", r"dwconv\.depthwise_conv\.0": "depthwise", "fc2": "project"}


def transformer_sizes(tensors: Tensors) -> dict[str, Any]:
    channels = commonest_size(tensors, r"conv_first\.weight|conv_after_body\.weight|layers\.\d+\.conv\.weight")
    depths = [
        count(tensors, rf"layers\.{stage}\.residual_group\.layers\.(\d+)\..*")
        for stage in range(count(tensors, r"layers\.(\d+)\..*"))
    ]
    table = commonest_size(tensors, LAYER + r"attn_win\.relative_position_bias_table")
    return {
        "channels": channels,
        "depths": tuple(depths),
        "window_size": (math.isqrt(table) + 1) // 2,
        "hidden": commonest_size(tensors, LAYER + r"convffn\.fc1\.weight"),
        "kernel_size": commonest_size(tensors, LAYER + r"convffn\.dwconv\.depthwise_conv\.0\.weight", axis=2),
        **_upsampler(tensors),
    }


def _upsampler(tensors: Tensors) -> dict[str, Any]:
    first = commonest_size(tensors, r"upsample\.0\.(weight|bias)")
    if not any(name.startswith("conv_last.") for name in tensors):
        return {"upsampler": "direct", "scale": math.isqrt(first // 3)}
    twice = any(name.startswith("upsample.2.") for name in tensors)
    return {"upsampler": "classical", "scale": 4 if twice else math.isqrt(first // 64)}


def transformer_rules(config: Any) -> Rules:
    """Trunk, norms, windows and feed-forwards; `config` None for a part of a network."""
    last = 4 if config is not None and config.scale == 4 else 2
    return [
        ("conv_first" + END, r"head.\1"),
        (r"patch_embed\.norm" + END, r"first_norm.\1"),
        (rf"layers\.(\d+)\.conv{END}", r"stages.\1.fuse.\2"),
        ("norm" + END, r"last_norm.\1"),
        ("conv_after_body" + END, r"fuse.\1"),
        (r"conv_before_upsample\.0" + END, r"narrow.\1"),
        (r"upsample\.([02])" + END, r"upsample.\1.\2"),
        ("conv_last" + END, rf"upsample.{last}.\1"),
        ("relative_position_index_SA", None),
        (f"{LAYER}norm1{END}", r"stages.\1.layers.\2.norm.\3"),
        (f"{LAYER}norm2{END}", r"stages.\1.layers.\2.feed_forward.norm.\3"),
        (f"{LAYER}wqkv{END}", r"stages.\1.layers.\2.embed.\3"),
        (rf"{LAYER}attn_win\.relative_position_bias_table", r"stages.\1.layers.\2.windows.offset_bias"),
        (rf"{LAYER}attn_win\.proj{END}", r"stages.\1.layers.\2.project_windows.\3"),
        *layers(rf"{LAYER}convffn\.", r"stages.\1.layers.\2.feed_forward.", FEED_FORWARD),
    ]


def sizes_by_stage(tensors: Tensors, name: str, axis: int) -> tuple[int, ...]:
    """A size that may differ from stage to stage."""
    stages = count(tensors, r"layers\.(\d+)\..*")
    return tuple(
        commonest_size(tensors, rf"layers\.{stage}\.residual_group\.layers\.\d+\.{name}", axis)
        for stage in range(stages)
    )
