"""nlsr benchmark: what operators and networks cost."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nlsr.cli.settings import Device, Imports, Threads, device_named, model_settings
from nlsr.errors import UsageError
from nlsr.files import replacing

if TYPE_CHECKING:
    import torch

app = typer.Typer(help="Measure time, memory and multiply-adds.", no_args_is_help=True)

Folder = Annotated[
    Path | None, typer.Option("-o", "--output", help="Folder for results as JSON lines, table and plot.")
]


@app.command()
def operators(
    names: Annotated[list[str] | None, typer.Argument(help="Operators to measure.", show_default="all")] = None,
    sizes: Annotated[
        list[int] | None,
        typer.Option("--size", min=8, help="Side of the map; may be repeated.", show_default="a row of them"),
    ] = None,
    channels: Annotated[int, typer.Option(min=16, help="Channels of the map.")] = 64,
    training: Annotated[bool, typer.Option("--training", help="Time forward and backward as well.")] = False,
    stack: Annotated[bool, typer.Option("--stack", help="Ten modules, with and without sharing.")] = False,
    image: Annotated[
        Path | None, typer.Option(help="Picture on whose trained features error and recall are measured.")
    ] = None,
    output: Folder = None,
    repeats: Annotated[int, typer.Option(min=1, help="Calls that are timed; the median counts.")] = 3,
    threads: Threads = None,
    device: Device = "cpu",
    limit: Annotated[float, typer.Option(min=1, help="Seconds one call may take.")] = 120,
    imports: Imports = None,
) -> None:
    """Time, memory, multiply-adds and error of every attention, over resolutions."""
    import torch

    from nlsr.attention import OPERATORS
    from nlsr.benchmark.machine import facts
    from nlsr.benchmark.operators import SIZES, measure
    from nlsr.benchmark.report import operators_table, plot_operators, quality_table, stacks_table
    from nlsr.cli.progress import Counter
    from nlsr.extras import require

    device = str(device_named(device))
    if output:
        _check_folder(output)
        if not stack:
            require("matplotlib", extra="bench")
    features = _trained_features(image) if image else None
    what = ["shared", "unshared"] if stack else ["forward", "training"] if training else ["forward"]
    chosen = names or [name for name, kind in OPERATORS.items() if not stack or kind(channels).scale == 1]
    with Counter("measuring") as counter:
        rows = measure(
            chosen,
            sizes or ([160] if stack else list(SIZES)),
            channels=channels,
            what=what,
            repeats=repeats,
            threads=torch.get_num_threads(),
            device=device,
            limit=limit,
            modules=imports or (),
            report=counter,
        )
    machine = facts(device, torch.get_num_threads())
    tables = [stacks_table(rows) if stack else operators_table(rows)]
    records = [{"machine": machine} | dataclasses.asdict(row) for row in rows]
    if features is not None:
        from nlsr.benchmark.quality import operator_quality, pattern_quality

        own, patterns = operator_quality(features), pattern_quality(features)
        tables.append(quality_table(own, patterns))
        records += [{"quality": dataclasses.asdict(row)} for row in own + patterns]
    tables.append(_measured_on(machine))
    print("\n\n".join(tables))
    if output:
        _write(output, "operators", records, tables)
        if not stack:
            plot_operators(rows, output / "operators.png")


@app.command()
def networks(
    names: Annotated[
        list[str] | None, typer.Argument(help="Presets of networks to measure.", show_default="all")
    ] = None,
    scale: Annotated[int, typer.Option("-s", "--scale", min=2, max=4, help="How far the networks enlarge.")] = 4,
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            "--size", metavar="WxH", help="Size of the input; may be repeated.", show_default="64x64, 320x180"
        ),
    ] = None,
    evaluated: Annotated[
        Path | None, typer.Option(help="Folder of `nlsr evaluate -o`: draws its quality against its time.")
    ] = None,
    output: Folder = None,
    threads: Threads = None,
    limit: Annotated[float, typer.Option(min=1, help="Seconds one picture may take; the rest is predicted.")] = 600,
    engine: Annotated[str, typer.Option(help="What computes: torch, onnxruntime or openvino, in fp32.")] = "torch",
    imports: Imports = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line per network.")] = False,
) -> None:
    """Parameters, multiply-adds, time and peak memory of every network; quality against time."""
    import torch

    from nlsr.benchmark.machine import facts
    from nlsr.benchmark.networks import SIZES, exportable, markdown, measure
    from nlsr.benchmark.tradeoff import plot_tradeoff, points, tradeoff_table
    from nlsr.cli.progress import Counter
    from nlsr.extras import require
    from nlsr.networks import PRESETS
    from nlsr.upscale.engine import ENGINES

    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: expected {', '.join(ENGINES)}")
    found = points(evaluated) if evaluated else []
    if output:
        _check_folder(output)
        if found:
            require("matplotlib", extra="bench")
    chosen = names or [name for name in PRESETS if name != "glan"]  # another name of dlsn
    if engine != "torch" and not names:
        chosen = [name for name in chosen if exportable(name, scale)]
    threads = torch.get_num_threads()  # what --threads says, if it was given
    measured_at = tuple(map(_size, sizes)) if sizes else SIZES
    rows = []
    with Counter("measuring") as counter:
        for row in measure(
            chosen,
            scale=scale,
            sizes=measured_at,
            threads=threads,
            limit=limit,
            engine=engine,
            modules=imports or (),
            report=counter,
        ):
            rows.append(row)
            if as_json:
                print(json.dumps(dataclasses.asdict(row)), flush=True)
    machine = facts("cpu", threads) | ({"engine": engine} if engine != "torch" else {})
    tables = [markdown(rows), *([tradeoff_table(found)] if found else []), _measured_on(machine)]
    if not as_json:
        print("\n\n".join(tables))
    if output:
        records = [{"machine": machine} | dataclasses.asdict(row) for row in rows]
        records += [{"machine": machine} | dataclasses.asdict(point) for point in found]
        _write(output, "networks", records, tables)
        if found:
            plot_tradeoff(found, output / "tradeoff.png")


@app.command()
def engines(
    models: Annotated[
        list[str] | None, typer.Argument(help="Names of weights, or weight files.", show_default="the default model")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16, or 'auto' by picture and processor.")] = "auto",
    pictures: Annotated[int, typer.Option(min=2, help="Of the longer of two batches that are timed.")] = 9,
    megapixels: Annotated[
        list[float] | None,
        typer.Option(min=0.01, help="Size of a large picture that is timed too; may be repeated.", show_default="none"),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs that are timed; the median counts.")] = 3,
    output: Folder = None,
    threads: Threads = None,
    imports: Imports = None,
) -> None:
    """How long the whole command takes with each engine that is installed; `--engine auto` chooses by it."""
    import torch

    from nlsr.benchmark.engines import measure, table
    from nlsr.benchmark.machine import facts
    from nlsr.cli.progress import Counter
    from nlsr.default import DEFAULT_MODEL

    if output:
        _check_folder(output)
    with Counter("measuring") as counter:
        rows = measure(
            models or [DEFAULT_MODEL],
            precision=precision,
            pictures=pictures,
            megapixels=megapixels or (),
            repeats=repeats,
            modules=imports or (),
            report=counter,
        )
    machine = facts("cpu", torch.get_num_threads())
    tables = [table(rows), _measured_on(machine)]
    print("\n\n".join(tables))
    if output:
        _write(output, "engines", [{"machine": machine} | dataclasses.asdict(row) for row in rows], tables)


@app.command()
def exports(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Networks, taken untrained, and names of weights or weight files.", show_default="all"),
    ] = None,
    formats: Annotated[
        list[str] | None, typer.Option("--to", help="onnx, openvino or pt2; may be repeated.", show_default="all")
    ] = None,
    scale: Annotated[int, typer.Option(min=2, help="Scale of the networks.")] = 2,
    output: Folder = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the networks that are complete in the folder of -o.")
    ] = False,
    threads: Threads = None,
    imports: Imports = None,
) -> None:
    """How far exported files are from torch, on the sizes that each export is proved on.

    What -o writes is there as soon as a file is compared, and --resume goes on after it.
    """
    from nlsr.benchmark.exports import complete, measure, table
    from nlsr.cli.progress import Counter
    from nlsr.networks import PRESETS

    if output:
        _check_folder(output)
    chosen = names or [name for name in PRESETS if name != "glan"]  # another name of dlsn
    if resume and not output:
        raise UsageError("--resume: expected -o with the folder of an earlier run")
    rows = complete(output / "exports.jsonl", scale=scale, formats=formats or ()) if output and resume else []
    missing = [name for name in chosen if name not in {row.name for row in rows}]
    with Counter("exporting") as counter:
        for row in measure(missing, scale=scale, formats=formats or (), report=counter):
            rows.append(row)
            if output:
                _write(output, "exports", [dataclasses.asdict(each) for each in rows], [table(rows)])
    print(table(rows))


@app.command()
def recall(
    data: Annotated[Path, typer.Option("--data", help="Folder of high-res pictures.")],
    names: Annotated[
        list[str] | None, typer.Argument(help="Operators to try on the model's features.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("-m", "--model", help="Weights that match, by name or file. [default: the default model]"),
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value, a keyword of the operators.")] = None,
    output: Folder = None,
    imports: Imports = None,
) -> None:
    """How many of the positions that really look alike, in high-res, a match lets each position draw on."""
    from nlsr.benchmark.recall import measure
    from nlsr.benchmark.report import recall_table
    from nlsr.cli.progress import Counter
    from nlsr.default import DEFAULT_MODEL

    if output:
        _check_folder(output)
    with Counter("measuring") as counter:
        rows = measure(
            data,
            model=model or DEFAULT_MODEL,
            operators=names or [],
            settings=model_settings(settings),
            report=counter,
        )
    table = recall_table(rows)
    print(table)
    if output:
        _write(output, "recall", [dataclasses.asdict(row) for row in rows], [table])


def _size(text: str) -> tuple[int, int]:
    """Height and width."""
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise UsageError(f"--size {text}: expected WxH, like 320x180")
    return int(height), int(width)


def _measured_on(machine: dict[str, Any]) -> str:
    return "Measured on: " + ", ".join(f"{key} {value}" for key, value in machine.items())


def _check_folder(folder: Path) -> None:
    """Make it, before a long measurement. What an earlier one left in it stays until there is something to replace it.

    Raises: UsageError if it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"-o {folder}: cannot be written ({error.strerror})") from error


def _write(folder: Path, name: str, records: list[dict[str, Any]], tables: list[str]) -> None:
    try:
        for ending, text in (
            ("jsonl", "".join(json.dumps(record) + "\n" for record in records)),
            ("md", "\n\n".join(tables) + "\n"),
        ):
            with replacing(folder / f"{name}.{ending}") as file:
                file.write(text.encode())
    except OSError as error:
        raise UsageError(f"-o {folder}: cannot be written ({error.strerror})") from error


def _trained_features(image: Path) -> "torch.Tensor":
    from nlsr.benchmark.quality import LARGEST_SIDE, trained_features
    from nlsr.images import filled, read

    pixels = filled(read(image))
    top, left = (max(0, side - LARGEST_SIDE) // 2 for side in pixels.shape[2:])
    return trained_features(pixels[:, :, top : top + LARGEST_SIDE, left : left + LARGEST_SIDE].contiguous())
