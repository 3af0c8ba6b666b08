"""ONNX: made of a graph by torch's own exporter."""

import contextlib
import io
import logging
import warnings
from typing import Any

import torch
from torch.export import ExportedProgram

from nlsr.errors import ExportError

OPSET = 18
"""Understood by ONNX Runtime since 1.14 and by OpenVINO since 2023."""


def onnx_model(program: ExportedProgram, metadata: dict[str, str]) -> bytes:
    """The file. Raises: ExportError with the operation that ONNX lacks."""
    from nlsr.export.operations import attention, gelu

    names: Any = dict(input_names=["low_res"], output_names=["upscaled"])
    aten = torch.ops.aten
    table: Any = {aten.scaled_dot_product_attention.default: attention, aten.gelu.default: gelu}
    single = torch.autocast("cpu", enabled=False)  # a caller's would become part of the file
    try:
        with (
            single,
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            _quiet("torch.onnx", "onnxscript"),
        ):
            warnings.simplefilter("ignore")  # torch's, about its own ways
            made: Any = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table=table,
                optimize=False,
                verbose=False,
                **names,
            )
            _simplify(made.model)
    except Exception as error:
        raise ExportError(f"ONNX has no form of this network: {_innermost(error)}") from error
    made.model.metadata_props.update(metadata)
    return made.model_proto.SerializeToString()


def _simplify(model: Any) -> None:
    """Compute what depends on no input, and keep once what is there several times. The exporter's own way also asks of
    each node, for each of its rules, what all nodes are: minutes where there are thousands."""
    from onnx_ir.passes import Sequential, common
    from onnxscript import optimizer

    optimizer.inline(model)
    optimizer.fold_constants(model)
    Sequential(
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)


@contextlib.contextmanager
def _quiet(*names: str) -> Any:
    """Without what libraries log about themselves."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
