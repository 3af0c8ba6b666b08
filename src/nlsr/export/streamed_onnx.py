"""Exact attention in ONNX, in memory linear in the positions: a loop over blocks of queries. The exporter's form makes
all weights at once. Imported only where onnxscript is installed."""

from onnxscript import FLOAT, script
from onnxscript.onnx_opset import opset18 as op


@script()
def streamed_attention(
    query: FLOAT["b", "h", "q", "d"],  # noqa: F821  (names of sides)
    key: FLOAT["b", "h", "k", "d"],  # noqa: F821
    values: FLOAT["b", "h", "k", "c"],  # noqa: F821
) -> FLOAT["b", "h", "q", "c"]:  # noqa: F821
    """softmax(query . key) values, block by block."""
    queries = op.Shape(query, start=2, end=3)
    step = op.Max(
        op.Div(op.Constant(value_ints=[4_194_304]), op.Shape(key, start=2, end=3)), op.Constant(value_ints=[1])
    )
    count = op.Squeeze(op.Div(op.Sub(op.Add(queries, step), op.Constant(value_ints=[1])), step))
    transposed = op.Transpose(key, perm=[0, 1, 3, 2])
    drawn = op.Slice(values, op.Constant(value_ints=[0]), op.Constant(value_ints=[0]), op.Constant(value_ints=[2]))
    for number in range(count):
        start = op.Mul(number, step)
        block = op.Slice(query, start, op.Add(start, step), op.Constant(value_ints=[2]))
        weights = op.Softmax(op.MatMul(block, transposed), axis=-1)
        drawn = op.Concat(drawn, op.MatMul(weights, values), axis=2)
    return drawn


def attention(
    query: FLOAT["b", "h", "q", "d"],  # noqa: F821
    key: FLOAT["b", "h", "k", "d"],  # noqa: F821
    value: FLOAT["b", "h", "k", "c"],  # noqa: F821
    attn_mask: None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float = 1.0,
    enable_gqa: bool = False,
) -> FLOAT["b", "h", "q", "c"]:  # noqa: F821
    """`torch.nn.functional.scaled_dot_product_attention` without a mask, and not scaled, which is all a graph has."""
    return streamed_attention(query, key, value)
