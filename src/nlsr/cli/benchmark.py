"""nlsr benchmark: what networks cost."""

import dataclasses
import json
from typing import Annotated

import typer

app = typer.Typer(help="Measure time, memory and multiply-adds.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def networks(
    names: Annotated[list[str] | None, typer.Argument(help="Presets. [default: all]", show_default=False)] = None,
    scale: Annotated[int, typer.Option("-s", "--scale", min=2, max=4)] = 4,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads. [default: all]")] = None,
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
