"""From a network to a file that other programs run, with proof that the file computes what the network does."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nlsr.errors import TargetError, UsageError
from nlsr.export.formats import FORMATS, Format, Weights, open_made
from nlsr.export.graph import check_exportable, record
from nlsr.export.onnx import onnx_model
from nlsr.export.proof import Proof, prove
from nlsr.networks import Network, name_of

__all__ = ["FORMATS", "Proof", "Weights", "check_exportable", "export", "onnx_of", "prove"]

WEIGHTS: tuple[Weights, ...] = ("fp32", "fp16")


def export(
    network: Network,
    path: str | Path,
    *,
    to: str,
    weights: Weights = "fp32",
    card: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Proof:
    """Write a network as a graph of any height, width and batch, and run the file beside torch.

    The graph takes `low_res` (batch, 3, height, width), RGB in [0, 1] in float32, and gives `upscaled` (batch, 3, scale
    * height, scale * width), not clamped.

    Args:
        network: stays as it is.
        path: of the file; OpenVINO writes a second one beside it, which ends in .bin.
        to: one of `FORMATS`.
        weights: "fp16" stores them in half precision: half the size. Computed is in float32.
        card: what should be known about the training; JSON values.
        overwrite: replace a file that is there.
    Raises: UsageError for an unknown format, a missing extra and a network that has no graph, TargetError for a file
        that cannot be written, ExportError if what was written does not compute the same: then no file is left.
    """
    if to not in FORMATS:
        raise UsageError(f"`to={to}`: expected {', '.join(FORMATS)}")
    if weights not in WEIGHTS:
        raise UsageError(f"`weights={weights}`: expected {', '.join(WEIGHTS)}")
    form, path = FORMATS[to], Path(path)
    form.require()
    if path.suffix != form.suffix:
        raise TargetError(f"{path}: expected a name that ends in {form.suffix}")
    if not path.parent.is_dir():
        raise TargetError(f"{path}: its folder does not exist; create it")
    there = [file for file in form.files(path) if os.path.lexists(file)]
    if there and not overwrite:
        raise TargetError(f"{there[0]}: exists already; choose another name or allow it with `overwrite`")
    network = network.eval().to("cpu", torch.float32)
    with _beside(path, form) as unproved:
        form.write(record(network, weights=weights), unproved, _metadata(network, weights, card))
        return prove(network, open_made(form, unproved), weights=weights)


def onnx_of(network: Network) -> bytes:
    """The content of an ONNX file in single precision, not proved. Raises: as `export`."""
    return onnx_model(record(network), _metadata(network, "fp32", None))


def _metadata(network: Network, weights: Weights, card: dict[str, Any] | None) -> dict[str, str]:
    """What an exported file says of itself."""
    return {
        "format": "nlsr-graph-1",
        "network": name_of(network),
        "scale": str(network.scale),
        "input": "low_res: float32 RGB in [0, 1], (batch, 3, height, width)",
        "output": "upscaled: float32 RGB, (batch, 3, scale * height, scale * width), about [0, 1], not clamped",
        "weights": weights,
        "config": json.dumps(vars(network.config), sort_keys=True, default=str),
        "card": json.dumps(card or {}, sort_keys=True),
        "made_by": f"nlsr {version('nlsr')}, torch {torch.__version__}",
    }


@contextlib.contextmanager
def _beside(path: Path, form: Format) -> Iterator[Path]:
    """A name in a folder of its own beside a file: what is written there takes the place of the file and of those that
    belong to it when the block ends well, and vanishes when it does not.

    Raises: TargetError if the folder of the file cannot be written to.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".nlsr-", dir=path.parent) as folder:
            unproved = Path(folder) / path.name
            yield unproved
            for made, target in zip(form.files(unproved), form.files(path), strict=True):
                os.replace(made, target)
    except OSError as error:
        raise TargetError(f"{path}: cannot be written ({error.strerror or error})") from error
