"""Files of PFT and PFT-light."""

from typing import Any

from nlsr.weights.published.published import END, Published, Rules, Tensors, commonest_size
from nlsr.weights.published.window_transformer import LAYER, transformer_rules, transformer_sizes


def _pft_sizes(tensors: Tensors) -> dict[str, Any]:
    """The number of heads is said by networks of more than 100 channels alone, whose heads have biases of their own."""
    columns = commonest_size(tensors, LAYER + r"attn_win\.relative_position_bias_table", axis=1)
    return transformer_sizes(tensors) | ({"heads": columns} if columns > 1 else {})


def _pft_rules(tensors: Tensors, config: Any) -> Rules:
    return [
        *transformer_rules(config),
        (rf"{LAYER}v_LePE\.depthwise_conv\.0{END}", r"stages.\1.layers.\2.place.\3"),
    ]


PUBLISHED = {"pft": Published(_pft_sizes, _pft_rules)}
