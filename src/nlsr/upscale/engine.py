"""Networks run by another engine than torch: graphs made once, proved beside torch, and kept in the user's cache.

Knows nothing of pictures and tiles.
"""

import contextlib
import hashlib
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nlsr.cache import cache_folder
from nlsr.errors import CheckpointError, UsageError
from nlsr.export import check_exportable, onnx_of, prove
from nlsr.export.formats import Run, open_onnx, open_openvino, reason_of
from nlsr.extras import require
from nlsr.files import replacing
from nlsr.memory import out_of_memory
from nlsr.networks import Network
from nlsr.upscale.foreign import Foreign
from nlsr.upscale.identity import identity
from nlsr.upscale.precision import Precision, choose, has_fast_bf16

EngineName = Literal["torch", "onnxruntime", "openvino"]
ENGINES: tuple[EngineName, ...] = ("torch", "onnxruntime", "openvino")
GRAPHS = 5
"""Counts changes of graphs, so that a cache gives no earlier ones."""
FIXED_FROM = 1_000_000
"""So many pixels of one size, in a whole picture, in tiles or in a batch of pictures of one size, make OpenVINO compile
a network for that size alone. It takes 0.1 to 0.5 s, and then 3 to 17 % less time and up to a third less memory. What
was made for other sizes is given up: a network is compiled once in each precision."""
HEAVY = 2**13
"""Where an attention holds so many numbers of a position in a graph (PFT), OpenVINO always compiles for one size: for
every size it takes two to three times the memory, and half as much time again."""
EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}


Shape = tuple[int, ...] | None
"""(batch, 3, height, width), or every one."""


class EngineFailed(Exception):
    """An engine did not compute; the message says why, in one line."""


class Engine:
    """Runs networks on the processor. A network is compiled when it is first run, for every size or for a large one."""

    def __init__(self, name: EngineName) -> None:
        """Raises: UsageError if a library is missing."""
        for module in (name, "onnx", "onnxscript"):
            require(module, extra=EXTRAS[name])
        self.name = name
        self._compiled: dict[tuple[int, Precision], tuple[Shape, Run]] = {}

    def run(self, network: Network, low_res: Tensor, precision: Precision, *, times: int = 1) -> Tensor:
        """What a network makes of images.

        Args:
            times: how often images of this size come, as the plan of the picture says: how they are rounded must not
                depend on what came before.
        Raises: EngineFailed if the engine does not compute it, MemoryError if memory runs out.
        """
        try:
            key, shape = (id(network), precision), self._fixed(network, low_res, times)
            if key not in self._compiled or self._compiled[key][0] != shape:
                self._compiled.pop(key, None)  # gives back its memory
                self._compiled[key] = shape, self._compile(network, precision, shape)
            return self._compiled[key][1](low_res.float())
        except UsageError:
            raise
        except Exception as error:  # an engine may fail in any way
            if out_of_memory(error):
                raise MemoryError from error
            raise EngineFailed(reason_of(error)) from error

    def _fixed(self, network: Network, low_res: Tensor, times: int) -> Shape:
        """The size that a network is compiled for; None for every one."""
        large = times * low_res.shape[2] * low_res.shape[3] >= FIXED_FROM
        return tuple(low_res.shape) if (large and self.name == "openvino") or self._is_heavy(network) else None

    def _is_heavy(self, network: Network) -> bool:
        return self.name == "openvino" and any(each.floats_in_graph() >= HEAVY for each in network.operators())

    def _compile(self, network: Network, precision: Precision, shape: Shape) -> Run:
        """From the cache, where it is written first; a cache that cannot be written costs time alone."""
        path = cache_folder() / "engines" / f"{self._key(network)}.onnx"
        if path.is_file():
            with contextlib.suppress(CheckpointError):  # damaged: it is made again
                return self._open(precision, shape)(path)
        graph = onnx_of(network)
        prove(network, self._proved(network, graph))
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(graph)
            return self._open(precision, shape)(path)
        return self._open(precision, shape, cache=False)(graph)

    def _proved(self, network: Network, graph: bytes) -> Run:
        """A graph compiled for every size, or anew for each where that is how it will be run."""
        if not self._is_heavy(network):
            return self._open("fp32", cache=False)(graph)
        return lambda low_res: self._open("fp32", tuple(low_res.shape), cache=False)(graph)(low_res)

    def _open(self, precision: Precision, shape: Shape = None, *, cache: bool = True) -> Callable[[Path | bytes], Run]:
        if self.name == "onnxruntime":
            return open_onnx
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision]}
        if cache and shape is None:  # of sizes there would be no end
            settings["CACHE_DIR"] = str(cache_folder() / "engines" / "openvino")
        return partial(open_openvino, settings=settings, shape=shape)

    def _key(self, network: Network) -> str:
        """Of the network and of all that a graph and its proof depend on."""
        made_by = [
            f"graphs {GRAPHS}",
            self.name,
            *(f"{name} {version(name)}" for name in ("nlsr", "torch", "onnxscript", self.name)),
        ]
        return hashlib.sha256(" ".join([identity(network), *made_by]).encode()).hexdigest()[:32]


def engine_named(name: str, device: torch.device) -> Engine | None:
    """The engine of a name; None for torch.

    Raises: UsageError for a name or device that it does not know, and if a library is missing.
    """
    if name not in ENGINES:
        raise UsageError(f"`engine={name}`: expected auto, {', '.join(ENGINES)}")
    if name == "torch":
        return None
    if device.type != "cpu":
        raise UsageError(f"`engine={name}`: computes on the processor; leave out `device={device}`, or `engine`")
    return Engine(name)


def check_network(engine: Engine, network: Network | Foreign) -> None:
    """Raises: UsageError for a network that the engine cannot run."""
    if isinstance(network, Foreign):
        raise UsageError(f"`engine={engine.name}`: runs networks of nlsr; {network.name} is a function of your own")
    check_exportable(network)


def choose_precision(
    engine: Engine | None,
    precision: Literal["auto"] | Precision,
    device: torch.device,
    depth: int,
    *,
    made_for: tuple[str, ...] | None = None,
) -> Precision:
    """As `choose`, of what an engine computes in. Raises: UsageError for anything else, and for bf16 on a processor
    that is not made for it, where an engine would silently compute in another precision."""
    if engine is None:
        return choose(precision, device, depth, made_for=made_for)
    if engine.name == "onnxruntime":
        if precision not in ("auto", "fp32"):
            raise UsageError(f"`precision={precision}`: onnxruntime computes in fp32; leave it out")
        return "fp32"
    if precision == "fp16":
        raise UsageError("`precision=fp16`: openvino computes in fp32 or bf16 on a processor")
    if precision == "bf16" and not has_fast_bf16(device):
        raise UsageError("`precision=bf16`: this processor has no instructions for it; take fp32")
    return choose(precision, device, depth)
