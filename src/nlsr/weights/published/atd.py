"""Files of ATD and ATD-light."""

from typing import Any

from nlsr.weights.published.published import END, Published, Rules, Tensors, commonest_size, layers
from nlsr.weights.published.window_transformer import LAYER, sizes_by_stage, transformer_rules, transformer_sizes


def _atd_sizes(tensors: Tensors) -> dict[str, Any]:
    return transformer_sizes(tensors) | {
        "heads": sizes_by_stage(tensors, r"attn_win\.relative_position_bias_table", axis=1),
        "num_tokens": commonest_size(tensors, LAYER + r"attn_atd\.scale|layers\.\d+\.residual_group\.td"),
        "token_width": commonest_size(tensors, LAYER + r"attn_atd\.w[qk]\.(weight|bias)"),
    }


def _atd_rules(tensors: Tensors, config: Any) -> Rules:
    layer = r"stages.\1.layers.\2."
    return [
        *transformer_rules(config),
        (r"layers\.(\d+)\.residual_group\.td", r"stages.\1.dictionary"),
        (rf"{LAYER}attn_atd\.scale", rf"{layer}dictionary.scale"),
        *layers(rf"{LAYER}attn_atd\.", f"{layer}dictionary.", {"wq": "query", "wk": "key", "wv": "values"}),
        (rf"{LAYER}attn_aca\.logit_scale", rf"{layer}categories.log_scale"),
        (rf"{LAYER}attn_aca\.proj{END}", rf"{layer}project_categories.\3"),
        (f"{LAYER}sigma", rf"{layer}refine.kept"),
        (f"{LAYER}norm3{END}", rf"{layer}refine.\3"),
    ]


PUBLISHED = {"atd": Published(_atd_sizes, _atd_rules)}
