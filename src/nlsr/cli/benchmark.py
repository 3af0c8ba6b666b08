"""nlsr benchmark: what operators and networks cost."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

app = typer.Typer(help="Measure time, memory and multiply-adds.", no_args_is_help=True)

Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads. [default: all]")]
Folder = Annotated[
    Path | None, typer.Option("-o", "--output", help="Folder for results as JSON lines, table and plot.")
]


@app.command()
def operators(
    names: Annotated[list[str] | None, typer.Argument(help="Operators. [default: all]", show_default=False)] = None,
    sizes: Annotated[list[int] | None, typer.Option("--size", min=8, help="Side of the map; may be repeated.")] = None,
    channels: Annotated[int, typer.Option(min=16)] = 64,
    training: Annotated[bool, typer.Option("--training", help="Time forward and backward as well.")] = False,
    stack: Annotated[bool, typer.Option("--stack", help="Ten modules, with and without sharing.")] = False,
    image: Annotated[
        Path | None, typer.Option(help="Picture on whose trained features error and recall are measured.")
    ] = None,
    output: Folder = None,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    threads: Threads = None,
    device: Annotated[str, typer.Option(help="cpu, cuda ...")] = "cpu",
    limit: Annotated[float, typer.Option(min=1, help="Seconds one call may take.")] = 120,
) -> None:
    """Time, memory, multiply-adds and error of every attention, over resolutions."""
    import torch

    from nlsr.benchmark.machine import facts
    from nlsr.benchmark.operators import NAMES, OPERATORS, SIZES, measure
    from nlsr.benchmark.report import operators_table, plot_operators, quality_table, stacks_table
    from nlsr.cli.progress import Counter

    threads = threads or torch.get_num_threads()
    what = ["shared", "unshared"] if stack else ["forward", "training"] if training else ["forward"]
    chosen = names or list(OPERATORS if stack else NAMES)
    with Counter("measuring") as counter:
        rows = measure(
            chosen,
            sizes or ([160] if stack else list(SIZES)),
            channels=channels,
            what=what,
            repeats=repeats,
            threads=threads,
            device=device,
            limit=limit,
            report=counter,
        )
    machine = facts(device, threads)
    tables = [stacks_table(rows) if stack else operators_table(rows)]
    records = [{"machine": machine} | dataclasses.asdict(row) for row in rows]
    if image:
        features = _trained_features(image)
        from nlsr.benchmark.quality import operator_quality, pattern_quality

        own, patterns = operator_quality(features), pattern_quality(features)
        tables.append(quality_table(own, patterns))
        records += [{"quality": dataclasses.asdict(row)} for row in own + patterns]
    tables.append("Measured on: " + ", ".join(f"{key} {value}" for key, value in machine.items()))
    print("\n\n".join(tables))
    if output:
        output.mkdir(parents=True, exist_ok=True)
        (output / "operators.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (output / "operators.md").write_text("\n\n".join(tables) + "\n")
        if not stack:
            plot_operators(rows, output / "operators.png")


@app.command()
def networks(
    names: Annotated[list[str] | None, typer.Argument(help="Presets. [default: all]", show_default=False)] = None,
    scale: Annotated[int, typer.Option("-s", "--scale", min=2, max=4)] = 4,
    threads: Threads = None,
    limit: Annotated[float, typer.Option(min=1, help="Seconds one picture may take; the rest is predicted.")] = 600,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line per network.")] = False,
) -> None:
    """Parameters, multiply-adds, time and peak memory of every network."""
    import torch

    from nlsr.benchmark.networks import markdown, measure
    from nlsr.cli.progress import Counter
    from nlsr.networks import PRESETS

    chosen = names or [name for name in PRESETS if name != "glan"]  # another name of dlsn
    rows = []
    with Counter("measuring") as counter:
        for row in measure(
            chosen, scale=scale, threads=threads or torch.get_num_threads(), limit=limit, report=counter
        ):
            rows.append(row)
            if as_json:
                print(json.dumps(dataclasses.asdict(row)), flush=True)
    if not as_json:
        print(markdown(rows))


def _trained_features(image: Path) -> "torch.Tensor":
    from nlsr.benchmark.quality import LARGEST_SIDE, trained_features
    from nlsr.images import read

    pixels = read(image).pixels
    top, left = (max(0, side - LARGEST_SIDE) // 2 for side in pixels.shape[2:])
    return trained_features(pixels[:, :, top : top + LARGEST_SIDE, left : left + LARGEST_SIDE].contiguous())
