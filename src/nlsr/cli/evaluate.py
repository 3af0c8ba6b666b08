"""nlsr evaluate: PSNR and SSIM of models on folders of images."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nlsr.cli.settings import ModelSettings, model_settings
from nlsr.errors import NlsrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def evaluate(
    data: Annotated[list[Path], typer.Option("-d", "--data", help="Folder of high-res images; may be repeated.")],
    model: Annotated[
        list[str], typer.Option("-m", "--model", help="Name, weight file, or 'bicubic'; may be repeated.")
    ] = [  # noqa: B006
        "lcoan-light-x4"
    ],
    scale: Annotated[
        int | None, typer.Option("-s", "--scale", min=2, help="Needed for bicubic. [default: the model's]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    settings: ModelSettings = None,
    redraw: Annotated[
        int | None,
        typer.Option(metavar="SEED", help="Draw new hash directions for every image, as the published networks do."),
    ] = None,
    tile: Annotated[
        int | None, typer.Option(min=16, help="Cut into tiles of this side. [default: whole images]")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads.")] = None,
) -> None:
    """PSNR and SSIM of luma: low-res images are made by MATLAB-exact bicubic resizing, then upscaled and compared."""
    import torch

    from nlsr.cli.progress import Counter
    from nlsr.evaluate import evaluate as score
    from nlsr.evaluate import markdown

    if threads:
        torch.set_num_threads(threads)
    upscalers = [(name, *_upscaler(name, scale, tile, model_settings(settings), redraw)) for name in model]
    results, failed = [], False
    for name, upscale, model_scale in upscalers:
        for folder in data:
            try:
                with Counter(f"{name} on {folder.name}") as counter:
                    result = score(upscale, folder, scale=model_scale, progress=counter)
            except NlsrError as error:
                print(f"evaluate: {error}", file=sys.stderr)
                failed = True
                continue
            failed |= bool(result.failures)
            for failure in result.failures:
                print(f"evaluate: {failure.name}: {failure.reason}", file=sys.stderr)
            results.append({"model": name, "data": folder.name} | result.as_dict())
            if not as_json:
                print(f"## {name} on {folder.name}, x{model_scale}\n\n{markdown(result)}\n")
    if as_json:
        print(json.dumps(results, indent=1))
    if failed:
        raise typer.Exit(1)


def _upscaler(
    name: str, scale: int | None, tile: int | None, settings: dict[str, Any], redraw: int | None
) -> "tuple[Callable[[Tensor], Tensor], int]":
    import torch

    from nlsr.evaluate import bicubic
    from nlsr.upscale import Upscaler
    from nlsr.weights import load

    if name == "bicubic":
        if scale is None:
            raise UsageError("--model bicubic: needs --scale")
        return bicubic(scale), scale
    network = load(name, **settings)
    if redraw is not None:
        network.draws = torch.Generator().manual_seed(redraw)
    upscaler = Upscaler(network, tile=tile or "none")
    if scale not in (None, upscaler.scale):
        raise UsageError(f"--scale {scale}: {name} upscales by {upscaler.scale}")
    return upscaler, upscaler.scale
