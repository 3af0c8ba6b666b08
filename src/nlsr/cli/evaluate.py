"""nlsr evaluate: PSNR and SSIM of models on folders of images."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nlsr.cli.settings import Device, Engine, Imports, ModelSettings, Threads, device_named, model_settings
from nlsr.default import DEFAULT_MODEL
from nlsr.errors import Interrupted, NlsrError, UsageError

if TYPE_CHECKING:
    from nlsr.evaluate.models import Model
    from nlsr.evaluate.output import Output
    from nlsr.evaluate.tables import EvaluatedModel


def evaluate(
    data: Annotated[
        list[str], typer.Option("-d", "--data", help="Folder of high-res images, or its address; may be repeated.")
    ],
    model: Annotated[
        list[str], typer.Option("-m", "--model", help="Name, weight file, or 'bicubic'; may be repeated.")
    ] = [  # noqa: B006
        DEFAULT_MODEL
    ],
    scale: Annotated[
        int | None, typer.Option("-s", "--scale", min=2, help="Bicubic needs it.", show_default="the model's")
    ] = None,
    low_res: Annotated[
        list[str] | None,
        typer.Option(help="Folder of low-res images, one for each --data.", show_default="made by bicubic resizing"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for tables, worst images and times; a stopped run is continued."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    settings: ModelSettings = None,
    imports: Imports = None,
    redraw: Annotated[
        int | None,
        typer.Option(metavar="SEED", help="Draw new hash directions for every image, as the published networks do."),
    ] = None,
    tile: Annotated[
        int | None, typer.Option(min=16, help="Cut into tiles of this side.", show_default="whole images")
    ] = None,
    tiles: Annotated[
        Literal["none", "published"],
        typer.Option(help="'published': cut as the network's published numbers were made."),
    ] = "none",
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Average over eight flips and turns.")] = False,
    device: Device = "cpu",
    engine: Engine = "torch",
    threads: Threads = None,
) -> None:
    """PSNR and SSIM under named protocols: low-res images are made as MATLAB does, upscaled, and compared."""
    from nlsr.evaluate.datasets import data_set_name
    from nlsr.evaluate.tables import markdown, protocols_in_words, summary
    from nlsr.images import one_line
    from nlsr.local_copy import local_folder

    if tile is not None and tiles == "published":
        raise UsageError("--tile and --tiles published: expected one of them")
    if low_res and len(low_res) != len(data):
        raise UsageError(f"--low-res: expected one folder for each --data, got {len(low_res)} for {len(data)}")
    folders = [local_folder(word) for word in data]
    names = Counter(data_set_name(folder) for folder in folders)
    if doubled := [name for name, count in names.items() if count > 1]:
        raise UsageError(f"--data: several sets are called {', '.join(doubled)}; rename a folder")
    low_res_folders: Sequence[Path | None] = [local_folder(word) for word in low_res or ()] or [None] * len(data)
    where = _output(output, device)
    options = dict(
        scale=scale,
        settings=model_settings(settings),
        tiles=tile or tiles,
        redraw=redraw,
        ensemble=ensemble,
        device=device_named(device),
        engine=engine,
    )
    models, failed = _models(model, options)
    results = []
    for each in models:
        for folder, low in zip(folders, low_res_folders, strict=True):
            try:
                result = _evaluate(each, folder, low, where)
            except NlsrError as error:
                if isinstance(error, Interrupted):
                    raise
                print(f"evaluate: {error}", file=sys.stderr)
                failed = True
                continue
            failed |= bool(result.evaluation.failures)
            for failure in result.evaluation.failures:
                print(f"evaluate: {one_line(failure.name)}: {one_line(failure.reason)}", file=sys.stderr)
            results.append(result)
            if not as_json:
                print(markdown(result))
    if as_json:
        print(json.dumps([result.as_dict() for result in results], indent=1))
    elif results:
        print((summary(results) + "\n" if len(results) > 1 else "") + protocols_in_words(results), end="")
    if where and results:
        where.write(results)
    if failed:
        raise typer.Exit(1)


def _output(folder: Path | None, device: str) -> "Output | None":
    import torch

    from nlsr.evaluate.output import Output
    from nlsr.memory import peak_memory, reset_peak

    if folder is None:
        return None
    if device.startswith("cuda"):
        on_device = (
            partial(torch.cuda.reset_peak_memory_stats, device),
            partial(torch.cuda.max_memory_allocated, device),
        )
        return Output(folder, peak_memory=on_device)
    return Output(folder, peak_memory=(reset_peak, peak_memory))


def _models(names: list[str], options: dict[str, Any]) -> "tuple[list[Model], bool]":
    """Those that can be loaded, and whether there are others, which are named. A single one that cannot is an error."""
    from nlsr.evaluate.models import load_model

    models = []
    for name in dict.fromkeys(names):
        try:
            models.append(load_model(name, **options))
        except NlsrError as error:
            if len(names) == 1:
                raise
            print(f"evaluate: {error}", file=sys.stderr)
    return models, len(models) < len(dict.fromkeys(names))


def _evaluate(model: "Model", data: Path, low_res: Path | None, output: "Output | None") -> "EvaluatedModel":
    from nlsr.cli.progress import Counter as Bar
    from nlsr.evaluate.datasets import PairFolder
    from nlsr.evaluate.evaluation import evaluate as score
    from nlsr.evaluate.protocols import PROTOCOLS
    from nlsr.evaluate.tables import EvaluatedModel

    session = output.session(model, data) if output else None
    done = total = 0

    with Bar(f"{model.name} on {data.name}") as bar:

        def progress(now: int, of: int) -> None:
            nonlocal done, total
            done, total = now, of
            bar(now, of)

        try:
            evaluation = score(
                session.upscale if session else model.upscale,
                data,
                scale=model.scale,
                low_res=low_res,
                protocols=tuple(PROTOCOLS),
                enlarge_luma=None if low_res else model.enlarge_luma,
                remember=session.remember if session else None,
                progress=progress,
            )
            result = EvaluatedModel(model, evaluation)
            if session:
                session.write_worst(result, PairFolder(data, scale=model.scale, low_res=low_res))
        except KeyboardInterrupt:
            rest = "; the same command continues from there" if output else "; with -o DIR it could continue from there"
            count = f" of {total}" if total else ""
            raise Interrupted(f"stopped after {done}{count} images of {data.name} with {model.name}{rest}") from None
    return result
