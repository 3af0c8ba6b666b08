"""Operations in ONNX of which torch's exporter has a larger or slower form. Imported only where onnxscript is
installed."""

import math

from onnxscript import FLOAT, graph, script
from onnxscript.onnx_opset import opset18 as op


@script()
def streamed_attention(query: FLOAT, key: FLOAT, values: FLOAT) -> FLOAT:
    """softmax(query . key) values: (b, h, q, d), (b, h, k, d), (b, h, k, c) -> (b, h, q, c). In memory linear in the
    positions: queries are scanned block by block, where the exporter's form makes all weights at once."""
    zero, one, three = op.Constant(value_ints=[0]), op.Constant(value_ints=[1]), op.Constant(value_ints=[0, 0, 0])
    queries, keys = op.Shape(query, start=2, end=3), op.Shape(key, start=2, end=3)
    step = op.Max(op.Div(op.Constant(value_ints=[4_194_304]), keys), one)
    step = op.Min(step, queries)
    count = op.Div(op.Sub(op.Add(queries, step), one), step)
    missing = op.Sub(op.Mul(count, step), queries)
    filled = op.Pad(query, op.Concat(three, three, missing, zero, axis=0))
    images = op.Shape(query, start=0, end=2)
    cut = op.Reshape(filled, op.Concat(images, count, step, op.Shape(query, start=3, end=4), axis=0))
    blocks = op.Transpose(cut, perm=[2, 0, 1, 3, 4])
    transposed = op.Transpose(key, perm=[0, 1, 3, 2])

    @graph()
    def attend(key_columns, of_keys, block):  # OpenVINO takes nothing from around a scan
        drawn = op.MatMul(op.Softmax(op.MatMul(block, key_columns), axis=-1), of_keys)
        return op.Identity(key_columns), op.Identity(of_keys), drawn

    _, _, scanned = op.Scan(transposed, values, blocks, body=attend, num_scan_inputs=1)
    drawn = op.Transpose(scanned, perm=[1, 2, 0, 3, 4])
    joined = op.Reshape(drawn, op.Concat(images, op.Mul(count, step), op.Shape(values, start=3, end=4), axis=0))
    return op.Slice(joined, zero, queries, op.Constant(value_ints=[2]))


def attention(
    query: FLOAT,
    key: FLOAT,
    value: FLOAT,
    attn_mask: None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float = 1.0,
    enable_gqa: bool = False,
) -> FLOAT:
    """`torch.nn.functional.scaled_dot_product_attention` without a mask, and not scaled, which is all a graph has."""
    return streamed_attention(query, key, value)


def gelu(self: FLOAT, approximate: str = "none") -> FLOAT:
    """`torch.nn.functional.gelu`. In this order ONNX Runtime finds the exact one, and computes it in one pass."""

    def number(value: float) -> FLOAT:
        return op.CastLike(op.Constant(value_float=value), self)

    if approximate == "tanh":
        cubed = op.Mul(op.Mul(self, self), op.Mul(self, number(0.044715)))
        curve = op.Tanh(op.Mul(op.Add(self, cubed), number((2 / math.pi) ** 0.5)))
    else:
        curve = op.Erf(op.Div(self, number(2**0.5)))
    return op.Mul(op.Mul(self, op.Add(curve, number(1))), number(0.5))
