"""nlsr export: a network as a file that other programs run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from nlsr.cli.settings import AsJson, Imports, ModelSettings, Overwrite, Threads, model_settings


def export(
    model: Annotated[str, typer.Argument(help="Name of weights, or a weight file.", show_default=False)],
    to: Annotated[str, typer.Option("--to", help="onnx, openvino or pt2 (torch.export).", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write.", show_default="MODEL.onnx, .xml or .pt2")
    ] = None,
    weights: Annotated[str, typer.Option(help="fp32, or fp16 for half of the size.")] = "fp32",
    settings: ModelSettings = None,
    overwrite: Overwrite = False,
    threads: Threads = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Write a network as a graph for any height and width, and prove that the file computes what torch does.

    The file takes float32 RGB in [0, 1], (batch, 3, height, width), and knows its network, scale and card.
    """
    from nlsr.errors import UsageError
    from nlsr.export import FORMATS
    from nlsr.export import export as write
    from nlsr.weights import find, load
    from nlsr.weights.checkpoint import read_card

    if to not in FORMATS:
        raise UsageError(f"--to {to}: expected {', '.join(FORMATS)}")
    target = output or Path(Path(model).stem + FORMATS[to].suffix)
    network = load(model, **model_settings(settings))
    proof = write(
        network,
        target,
        to=to,
        weights=weights,  # type: ignore[arg-type]  # it is checked there
        card=read_card(find(model, scale=network.scale)),
        overwrite=overwrite,
    )
    files = [str(file) for file in FORMATS[to].files(target)]
    if as_json:
        sizes = [vars(each) for each in proof.differences]
        print(json.dumps({"files": files, "sizes": sizes, "lost_db": proof.lost_db}))
        return
    print(
        f"{' and '.join(files)}: x{network.scale}, any size; on {len(proof.differences)} sizes of a photo its values "
        f"differ from torch's by {proof.largest:.1g} at most, and it loses {max(0.0, proof.lost_db):.3f} dB"
    )
