"""Files of ASID and ASID-d8."""

import math
from collections.abc import Iterator
from typing import Any

from nlsr.weights.published.published import END, WEIGHT, Published, Rule, Rules, Tensors, commonest_size, count, layers

GATE = {"conv1": "reduce", "conv_f": "direct", "conv2": "halve", "conv3": "coarse", "conv4": "expand"}
LOCAL = {"0": "first", "2": "depthwise", r"4\.gate\.1": "gate.squeeze", r"4\.gate\.3": "gate.excite", "5": "last"}
FEED_FORWARD = {"project_in": "expand", "dwconv": "depthwise", "project_out": "project"}
CHANNEL_ATTENTION = {"qkv": "embed", "qkv_dwconv": "mix", "project_out": "project"}


def _asid_sizes(tensors: Tensors) -> dict[str, Any]:
    return {
        "scale": math.isqrt(commonest_size(tensors, r"up\.0\.(weight|bias)") // 3),
        "channels": commonest_size(tensors, r"(input|output|block\d+\.res_end)\.weight"),
        "num_groups": count(tensors, r"block(\d+)\..*"),
    }


def _asid_rules(tensors: Tensors, config: Any) -> Rules:
    block = r"block(\d+)\."
    return [
        ("input" + END, r"head.\1"),
        ("output" + END, r"fuse.\1"),
        (r"up\.0" + END, r"upsample.0.\1"),
        (block + "res_end" + END, r"groups.\1.fuse.\2"),
        *layers(rf"{block}esa\.", r"groups.\1.gate.", GATE),
        # The distillation of the first group stands in a list of one, that of the others does not.
        *_distillation(r"block(0)\.residual_layer\.0\.", r"groups.\1.distillation."),
        *_distillation(r"block(\d+)\.residual_layer\.", r"groups.\1.distillation."),
    ]


def _distillation(theirs: str, ours: str) -> Iterator[Rule]:
    for i, join in enumerate(("distil.0", "distil.1", "fuse")):
        yield rf"{theirs}pw{i + 1}\.(weight|bias)", rf"{ours}{join}.\2"
        yield from layers(rf"{theirs}LB{i + 1}\.net\.fn\.", f"{ours}stages.{i}.local.", LOCAL)
        yield from _attention(rf"{theirs}SLA{i + 1}\.", f"{ours}stages.{i}.window.")
        yield from _attention(rf"{theirs}SGA{i + 1}\.", f"{ours}stages.{i}.grid.")
    for i in range(2):
        yield from _channel_attention(rf"{theirs}BlockC\.", str(i + 1), f"{ours}channel_blocks.{i}.")


def _attention(theirs: str, ours: str) -> Iterator[Rule]:
    parts = ("operator.query", "operator.key", "values")
    yield rf"{theirs}attn\.to_qkv\.weight", tuple(f"{ours}attention.{part}.weight" for part in parts)
    yield rf"{theirs}attn\.rel_pos_bias\.weight", f"{ours}attention.operator.offset_bias"
    yield rf"{theirs}attn\.to_v\.weight", f"{ours}attention.values.weight"
    yield rf"{theirs}attn\.to_out\.0\.weight", f"{ours}attention.project.weight"
    yield rf"{theirs}norm\.(weight|bias)", rf"{ours}attention.norm.\2"
    yield from _feed_forward(rf"{theirs}cnorm\.", rf"{theirs}gfn\.", ours)


def _channel_attention(theirs: str, number: str, ours: str) -> Iterator[Rule]:
    attention = rf"{theirs}cttn{number}\."
    yield rf"{theirs}canorm{number}\.(weight|bias)", rf"{ours}norm.\2"
    yield f"{attention}temperature", f"{ours}attention.temperature"
    yield from layers(attention, f"{ours}attention.", CHANNEL_ATTENTION, WEIGHT)
    yield from _feed_forward(rf"{theirs}cnorm{number}\.", rf"{theirs}gfn{number}\.", ours)


def _feed_forward(norm: str, theirs: str, ours: str) -> Iterator[Rule]:
    yield f"{norm}(weight|bias)", rf"{ours}feed_forward.norm.\2"
    yield from layers(theirs, f"{ours}feed_forward.", FEED_FORWARD, WEIGHT)


PUBLISHED = {"asid": Published(_asid_sizes, _asid_rules)}
