"""The formats of graphs: how each is written, and how a file of each is run."""

import json
import math
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import ExportedProgram

from nlsr.errors import CheckpointError, ExportError
from nlsr.export.onnx import onnx_model
from nlsr.extras import require

Weights = Literal["fp32", "fp16"]
MOST_ZEROS = 0.6
"""So many more weights make ONNX Runtime slower in blocks than in rows: with the 1.3 of PAN it takes 1.25 times as
long, with the 0.8 of SMFANet 1.1 times; with 0.4 and less of others it is faster by up to a fifth."""
Run = Callable[[Tensor], Tensor]
"""(batch, 3, height, width) -> (batch, 3, scale * height, scale * width), both float32."""


@dataclass(frozen=True)
class Format:
    """A kind of file that holds a graph."""

    suffix: str
    write: Callable[[ExportedProgram, Path, dict[str, str]], None]
    open: Callable[[Path], Run]
    modules: tuple[str, ...] = ()
    """What must be installed."""
    extra: str = ""
    beside: tuple[str, ...] = ()
    """Endings of files that belong to the first."""

    def require(self) -> None:
        """Raises: UsageError with the command that installs what is missing."""
        for module in self.modules:
            require(module, extra=self.extra)

    def files(self, path: Path) -> list[Path]:
        """All files of a graph."""
        return [path, *(path.with_suffix(suffix) for suffix in self.beside)]


def open_made(form: Format, path: Path) -> Run:
    """Of a file that was made a moment ago. Raises: ExportError if its own library has no form of what is in it."""
    try:
        return form.open(path)
    except CheckpointError as error:
        reason = reason_of(error.__cause__ or error)
        raise ExportError(f"the file cannot be run ({reason}); no file was written") from error


def write_pt2(program: ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path, extra_files={"nlsr.json": json.dumps(metadata)})


def open_pt2(path: Path) -> Run:
    """Raises: CheckpointError for a file that torch does not read."""
    try:
        module = torch.export.load(path).module()
    except Exception as error:
        raise _damaged(path, error) from error
    return module


def write_onnx(program: ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
    path.write_bytes(onnx_model(program, metadata))


def open_onnx(graph: Path | bytes, *, threads: int | None = None) -> Run:
    """Raises: CheckpointError for a file that ONNX Runtime does not read."""
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.enable_mem_pattern = False  # from the second run of a size on it would take its memory twice
    options.log_severity_level = 3
    try:
        if _zeros_in_blocks(graph) > MOST_ZEROS:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        session = onnxruntime.InferenceSession(_content(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _damaged(graph, error) from error
    return lambda low_res: torch.from_numpy(session.run(None, {"low_res": low_res.contiguous().numpy()})[0])


def _zeros_in_blocks(graph: Path | bytes) -> float:
    """What blocks of channels, in which ONNX Runtime lays out images for convolutions, add to their weights, as a
    share: channels are filled up to whole blocks."""
    import onnx

    model = (onnx.load_from_string if isinstance(graph, bytes) else onnx.load)(graph)
    shapes = {each.name: tuple(each.dims) for each in model.graph.initializer}
    kernels = [shapes.get(node.input[1], ()) for node in model.graph.node if node.op_type == "Conv"]
    kernels = [kernel for kernel in kernels if kernel and kernel[1] > 1]  # depthwise ones mix no channels
    block = 16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8
    filled = [(-(-out // block) * block, -(-into // block) * block, *sides) for out, into, *sides in kernels]
    return sum(map(math.prod, filled)) / max(1, sum(map(math.prod, kernels))) - 1


def write_openvino(program: ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
    openvino = _openvino()
    model = openvino.Core().read_model(onnx_model(program, metadata))
    for key, value in metadata.items():
        model.set_rt_info(value, ["nlsr", key])
    openvino.save_model(model, path, compress_to_fp16=False)


def open_openvino(
    graph: Path | bytes,
    *,
    threads: int | None = None,
    settings: dict[str, Any] | None = None,
    shape: tuple[int, ...] | None = None,
) -> Run:
    """
    Args:
        threads: by default as many as torch has.
        settings: of the processor, by OpenVINO's names.
        shape: (batch, 3, height, width) of the images, if all will have the same.
    Raises: CheckpointError for a file that OpenVINO does not read.
    """
    openvino = _openvino()
    wanted = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    wanted |= {"INFERENCE_NUM_THREADS": threads or torch.get_num_threads(), "ENABLE_CPU_PINNING": False}
    try:
        core = openvino.Core()
        model = core.read_model(_content(graph))
        if shape is not None:
            model.reshape(list(shape))
        compiled = core.compile_model(model, "CPU", wanted | (settings or {}))
    except Exception as error:
        raise _damaged(graph, error) from error

    def run(low_res: Tensor) -> Tensor:
        request = compiled.create_infer_request()  # the memory of the result is its own, and need not be copied
        return torch.from_numpy(request.infer(low_res.contiguous().numpy(), share_outputs=True)[0])

    return run


def _onnxruntime() -> Any:
    """ONNX Runtime, which since 1.29 tells Microsoft of processor and models from its import on, but where it is told
    not to before."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    if hasattr(onnxruntime, "disable_telemetry_events"):  # where the user imported it before
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def _openvino() -> Any:
    """OpenVINO, which tells Google Analytics of every import, and keeps a number for that in the user's home, but where
    its package for telling is missing."""
    known = sys.modules.get("openvino_telemetry", _UNKNOWN)
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Python's way to say so
    try:
        import openvino
    finally:
        if known is _UNKNOWN:
            del sys.modules["openvino_telemetry"]
        else:
            sys.modules["openvino_telemetry"] = known
    return openvino


_UNKNOWN: Any = object()


def _content(graph: Path | bytes) -> str | bytes:
    return graph if isinstance(graph, bytes) else os.fspath(graph)


def _damaged(graph: Path | bytes, error: Exception) -> CheckpointError:
    path = "a graph" if isinstance(graph, bytes) else graph
    return CheckpointError(f"{path}: damaged, or written by another version ({reason_of(error)}); export it again")


def reason_of(error: BaseException) -> str:
    """What an engine says, in one line: the first one that names no place in its source alone."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from ", "Check '"))]
    return next(iter(told or lines), type(error).__name__)


FORMATS = {
    "onnx": Format(".onnx", write_onnx, open_onnx, ("onnx", "onnxscript", "onnxruntime"), "onnx"),
    "openvino": Format(
        ".xml", write_openvino, open_openvino, ("openvino", "onnx", "onnxscript"), "openvino", beside=(".bin",)
    ),
    "pt2": Format(".pt2", write_pt2, open_pt2),
}
"""Name -> format."""
