"""nlsr data: look at and prepare images for training."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from nlsr.cli.settings import AsJson
from nlsr.errors import Interrupted, RecipeError, UsageError

app = typer.Typer(help="Check and prepare training images.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Makes `prepare` a subcommand even while it is the only one."""


@app.command()
def prepare(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders of training images, searched with all below them.", metavar="FOLDER..."),
    ],
    scale: Annotated[int, typer.Option("-s", "--scale", min=2, max=4, help="2, 3 or 4.")],
    source_scales: Annotated[
        str, typer.Option(metavar="LIST", help="Use each image at these sizes, like 1,0.5; as in the recipe.")
    ] = "1",
    low_res: Annotated[
        list[Path] | None,
        typer.Option(help="A folder of low-res images, one for each FOLDER.", show_default="they are made"),
    ] = None,
    patch_size: Annotated[int, typer.Option(min=1, help="Low-res side of a patch, to name images too small.")] = 48,
    cache: Annotated[
        Path | None,
        typer.Option(help="Where decoded images are kept, as for `nlsr train`.", show_default="~/.cache/nlsr"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check folders of images, make their low-res images, and keep both decoded for `nlsr train`.

    What is done already is not done again; a command that was stopped continues where it was. Exits with 1 if a file
    cannot be used.
    """
    sizes = _source_scales(source_scales)

    from nlsr.cli.progress import Counter
    from nlsr.train.data import default_folder, summary, table
    from nlsr.train.data import prepare as prepare_folders

    try:
        with Counter("preparing images") as counter:
            pairs = prepare_folders(
                folders,
                scale=scale,
                source_scales=sizes,
                low_res=low_res,
                cache=cache or default_folder(),
                report=counter,
            )
    except KeyboardInterrupt:
        raise Interrupted("stopped; what is prepared stays, the same command continues") from None
    found = summary(pairs, folders, patch_size=patch_size)
    print(json.dumps(found, indent=1) if as_json else table(found))
    for line in pairs.left_out:
        print(f"data: left out: {line}", file=sys.stderr)
    if len(found["too_small"]) == found["images"]:
        raise RecipeError(
            f"no image holds a patch of {patch_size}x{patch_size} low-res pixels; use a smaller --patch-size"
        )
    if pairs.left_out:
        raise typer.Exit(1)


def _source_scales(text: str) -> list[float]:
    try:
        sizes = [float(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or not all(0 < size < float("inf") for size in sizes):
        raise UsageError(f"--source-scales: expected positive numbers with commas, like 1,0.5, got {text}")
    return sizes
