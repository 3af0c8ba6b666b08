"""Files of CSNLN."""

from typing import Any

from nlsr.weights.published.published import Published, Rules, Tensors, commonest_size


def _csnln_sizes(tensors: Tensors) -> dict[str, Any]:
    channels = commonest_size(tensors, r"SEM\.\w+\.encoder\.body\.[02]\.weight|SEM\.post_conv\.0\.weight")
    twice = any(name.startswith("SEM.multi_source_projection_2.") for name in tensors)
    resampling = r"SEM\.(error_encode|down_sample_[12]|multi_source_projection\.upsample)\.0\.weight"
    return {
        "scale": 4 if twice else commonest_size(tensors, resampling, axis=2) // 3,
        "channels": channels,
        "recurrences": commonest_size(tensors, r"tail\.0\.weight", axis=1) // channels,
        "reduction": channels // commonest_size(tensors, r"SEM\.\w+\.\w+_attention\.conv_match_?[12]\.0\.weight"),
    }


def _csnln_rules(tensors: Tensors, config: Any) -> Rules:
    last = "down_sample_4" if config.scale == 4 else "down_sample_2"
    return [
        (r"head\.([01])\.([01])\.(weight|bias)", r"head.\1.\2.\3"),
        *_projection_rules(r"SEM\.multi_source_projection\.", "cell.stages.0.projection."),
        *_projection_rules(r"SEM\.multi_source_projection_2\.", "cell.stages.1.projection."),
        *_layer(r"SEM\.down_sample_1", "cell.stages.0.down"),
        *_layer(r"SEM\.error_encode", "cell.stages.0.up"),
        *_layer(r"SEM\.down_sample_3", "cell.stages.1.down"),
        *_layer(r"SEM\.error_encode_2", "cell.stages.1.up"),
        *_layer(rf"SEM\.{last}", "cell.down"),
        *_layer(r"SEM\.post_conv", "cell.post"),
        (r"tail\.0\.(weight|bias)", r"tail.\1"),
        # Fixed colour shifts, and the least norm of a patch, which some files lack.
        (r"(?:sub|add)_mean\.(?:weight|bias)|SEM\.\w+\.up_attention\.escape_NaN", None),
    ]


def _projection_rules(theirs: str, ours: str) -> Rules:
    return [
        *_layer(rf"{theirs}up_attention\.conv_match_1", f"{ours}cross_scale.operator.query"),
        *_layer(rf"{theirs}up_attention\.conv_match_2", f"{ours}cross_scale.operator.key"),
        *_layer(rf"{theirs}up_attention\.conv_assembly", f"{ours}cross_scale.values"),
        *_layer(rf"{theirs}down_attention\.conv_match1", f"{ours}in_scale.operator.query"),
        *_layer(rf"{theirs}down_attention\.conv_match2", f"{ours}in_scale.operator.key"),
        *_layer(rf"{theirs}down_attention\.conv_assembly", f"{ours}in_scale.values"),
        *_layer(rf"{theirs}upsample", f"{ours}up"),
        *_layer(rf"{theirs}encoder\.body", f"{ours}refine.0"),
        (rf"{theirs}encoder\.body\.2\.(weight|bias)", rf"{ours}refine.1.\1"),
    ]


def _layer(theirs: str, ours: str) -> Rules:
    """A convolution and the slope of its activation."""
    return [(rf"{theirs}\.([01])\.(weight|bias)", rf"{ours}.\1.\2")]


ENDS = (r"head\.0\.0\.weight", r"tail\.0\.(weight|bias)")

PUBLISHED = {"csnln": Published(_csnln_sizes, _csnln_rules, ENDS)}
