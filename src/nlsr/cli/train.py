"""nlsr train: train a network by a recipe, or say what the recipe would do."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from nlsr.cli.settings import Imports, threads_option
from nlsr.errors import NlsrError, ProcessLostError, UsageError, as_options


def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML file, see recipes/.")],
    data: Annotated[Path, typer.Option(help="Folder that the recipe's data folders are in.")] = Path("data"),
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder in which the folder of this run is made.")
    ] = Path("runs"),
    settings: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, changes the recipe.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Say what the recipe would do, and what is missing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run of this name.")] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Where decoded images are kept.", show_default="~/.cache/nlsr")
    ] = None,
    threads: Annotated[int | None, threads_option("Processor threads; equal numbers give equal weights.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="Accelerators, or processes, per machine.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    strategy: Annotated[
        Literal["ddp", "fsdp"], typer.Option(help="The whole network on every device, or divided among them.")
    ] = "ddp",
    imports: Imports = None,
) -> None:
    """Train a network by a recipe. Validates and saves; `--resume` continues a run that was stopped."""
    from nlsr.train.recipe import read_recipe

    chosen = read_recipe(recipe, settings)
    folder = output / chosen.name
    if check:
        from nlsr.train.check import explain

        print(as_options(explain(chosen, data=data, folder=folder)))
        return
    _prepare_folder(folder, resume)

    from nlsr.cli.progress import Counter
    from nlsr.extras import require

    require("lightning", extra="train")

    from nlsr.cli.training_progress import TrainingProgress, quiet
    from nlsr.memory import keep_freed
    from nlsr.train.data import default_folder, prepare, teach
    from nlsr.train.devices import Devices, is_main_process, own_device
    from nlsr.train.loop import fit
    from nlsr.train.start import load_teacher

    keep_freed()
    quiet()
    with Counter("decoding images") as counter:
        pairs = prepare(
            [data / name for name in chosen.data.train],
            scale=chosen.network.scale,
            source_scales=chosen.data.source_scales,
            low_res=None if chosen.data.low_res is None else [data / name for name in chosen.data.low_res],
            cache=cache or default_folder(),
            report=counter,
        )
    if chosen.training.teacher is not None:
        with Counter("asking the teacher") as counter:
            teacher = load_teacher(chosen)
            pairs = teach(pairs, teacher, cache=cache or default_folder(), device=own_device(), report=counter)
    for line in pairs.left_out if is_main_process() else ():
        print(f"train: left out: {line}", file=sys.stderr)
    try:
        path = fit(
            chosen,
            pairs,
            data / chosen.data.validation,
            folder,
            resume=resume,
            callbacks=[TrainingProgress(chosen)],
            sources=chosen.data.train,
            devices=Devices(devices, nodes, strategy),
        )
    except NlsrError as error:
        if is_main_process() or isinstance(error, ProcessLostError):
            raise
        raise typer.Exit(1) from None  # the first process says it for all
    if is_main_process():
        print(f"{chosen.name}: {chosen.training.steps} steps, weights in {path}")


def _prepare_folder(folder: Path, resume: bool) -> None:
    from nlsr.train.recipe import CHECKPOINT

    checkpoint = folder / CHECKPOINT
    if resume and not checkpoint.exists():
        raise UsageError(f"{checkpoint}: no checkpoint to continue from; leave out --resume")
    if not resume and checkpoint.exists():
        raise UsageError(f"{folder} holds a run already; continue it with --resume, or name another folder with -o")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"-o: the folder {folder} cannot be made ({error.strerror}); choose another") from error
