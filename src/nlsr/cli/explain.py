"""nlsr explain: where a network draws from for one pixel."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nlsr.cli.settings import (
    Device,
    Imports,
    Memory,
    ModelSettings,
    Overwrite,
    Threads,
    check_output,
    device_named,
    model_settings,
)
from nlsr.default import DEFAULT_MODEL
from nlsr.errors import Interrupted, NlsrError, UsageError

if TYPE_CHECKING:
    from nlsr.explain import Explanation
    from nlsr.images import Header


def explain(
    image: Annotated[Path, typer.Argument(help="Picture file.", metavar="IMAGE", show_default=False)],
    at: Annotated[str, typer.Option(metavar="X,Y", help="The pixel, counted from 0,0 at the top left.")],
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            help="Name of packaged weights, or a weight file.",
            show_default=f"{DEFAULT_MODEL}, or packaged weights with attention if it has none",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The picture to write.", show_default="IMAGE_at_X_Y.png beside IMAGE"),
    ] = None,
    npz: Annotated[Path | None, typer.Option(help="Also write the arrays, for programs.")] = None,
    settings: ModelSettings = None,
    imports: Imports = None,
    affinity: Annotated[int, typer.Option(min=0, help="Which affinity of the network.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Positions that are marked and listed.")] = 20,
    region: Annotated[
        int | None,
        typer.Option(min=16, help="Side of the square that is matched.", show_default="all, up to 512x512 pixels"),
    ] = None,
    attribution_region: Annotated[
        int | None,
        typer.Option(min=16, help="Side of the square that is attributed.", show_default="256 upscaled pixels"),
    ] = None,
    window: Annotated[int, typer.Option(min=1, help="Side of what is explained, in upscaled pixels.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the attribution.")] = 50,
    memory: Memory = None,
    overwrite: Overwrite = False,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Where a network draws from for one pixel: affinity, pattern and local attribution map, in one picture."""
    x, y = _point(at)
    if not image.name:
        raise UsageError(f"{image}: expected a picture file, got a folder")
    target = output or image.with_name(f"{image.stem}_at_{x}_{y}.png")

    from nlsr.cli.progress import Counter
    from nlsr.explain import explain as explain_pixel
    from nlsr.explain.picture import render
    from nlsr.extras import require
    from nlsr.images import Picture, check_target, filled, one_line, read, write
    from nlsr.memory import out_of_memory, parse_size
    from nlsr.weights import load, looked_into

    require("matplotlib", extra="bench")
    check_target(target, height=1, width=1, overwrite=overwrite)
    if npz is not None:
        _check_arrays(npz, overwrite=overwrite)
    budget = parse_size(memory) if memory else None
    picture = read(image, check=lambda header: _check_reading(header, image, budget))
    pixels = filled(picture).to(device_named(device))
    model = model or looked_into()
    network = load(model, **model_settings(settings)).to(pixels.device)
    try:
        with Counter("attribution") as counter:
            explanation = explain_pixel(
                network,
                pixels,
                (x, y),
                affinity=affinity,
                count=count,
                region=region,
                attribution_region=attribution_region,
                window=window,
                steps=steps,
                memory=budget,
                report=counter,
            )
    except KeyboardInterrupt:
        raise Interrupted("stopped; nothing was written") from None
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise NlsrError("out of memory; take less with --region and --attribution-region") from error
    sheet = render(explanation, pixels, title=f"{Path(model).stem} on {one_line(image.name)}")
    write(target, Picture(sheet), overwrite=overwrite)
    if npz is not None:
        _write_arrays(npz, explanation)
    print(_told(explanation, Path(model).stem, target))


def _point(text: str) -> tuple[int, int]:
    x, _, y = text.partition(",")
    try:
        return int(x), int(y)
    except ValueError:
        raise UsageError(f"--at {text}: expected x and y of a pixel, like 120,80") from None


def _check_reading(header: "Header", image: Path, budget: int | None) -> None:
    """Raises: UsageError for a picture that is too large to be read within a budget, before its pixels are."""
    from nlsr.images import one_line
    from nlsr.memory import shown

    if budget is not None and header.reading > budget:
        raise UsageError(
            f"{one_line(image)}: to be read it needs {shown(header.reading)}, the memory budget is {shown(budget)}; "
            "allow more with --memory"
        )


def _check_arrays(path: Path, *, overwrite: bool) -> None:
    """Raises: UsageError for what could not be written after a long computation."""
    if path.suffix != ".npz":
        raise UsageError(f"--npz {path}: expected a name that ends in .npz")
    check_output(path, overwrite=overwrite)


def _write_arrays(path: Path, explanation: "Explanation") -> None:
    import numpy as np

    from nlsr.files import replacing

    try:
        with replacing(path) as file:
            np.savez_compressed(file, **explanation.arrays())  # type: ignore[arg-type]
    except OSError as error:
        raise UsageError(f"--npz {path}: cannot be written ({error.strerror})") from error


def _told(explanation: "Explanation", model: str, target: Path) -> str:
    """The line that says what was found."""
    x, y = explanation.at
    drawn, part, attributed = explanation.sources, explanation.region, explanation.attribution_region
    if drawn is None:
        found = "this network has no attention, so nothing is matched"
    else:
        places = " ".join(f"{part.left + x},{part.top + y}" for x, y in drawn.strongest[:5].tolist())
        found = f"matched in {part.width}x{part.height} pixels, draws most on {places}"
    index = explanation.attribution.diffusion_index
    spread = "nothing to attribute in a flat picture" if index != index else f"diffusion index {index:.2f}"
    return f"{model}: {x},{y}: {found}; {spread} in {attributed.width}x{attributed.height} pixels; {target}"
