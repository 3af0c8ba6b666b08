"""nlsr upscale: enlarge pictures."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nlsr.errors import ImageError, UsageError

if TYPE_CHECKING:
    from nlsr.upscale import Upscaler


def upscale(
    inputs: Annotated[list[Path], typer.Argument(help="Picture files.", metavar="IN...", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File, or folder for several pictures. [default: IN_x4.png beside IN]"),
    ] = None,
    model: Annotated[
        str, typer.Option("-m", "--model", help="Name of packaged weights, or a weight file.")
    ] = "lcoan-light-x4",
    tile: Annotated[
        str, typer.Option(help="Side of a tile in pixels of the input, 'none' for whole, 'auto' by memory.")
    ] = "auto",
    memory: Annotated[
        str | None, typer.Option(help="Memory budget, like 2GiB. [default: 1/8 of the machine's]")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace existing files.")] = False,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of JPEG, WebP and AVIF.")] = 95,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads.")] = None,
) -> None:
    """Enlarge pictures with a network: by default four times, on the CPU, in a file beside the picture."""
    targets = _targets(inputs, output, model)
    tile_size = _tile(tile)

    import torch

    from nlsr.upscale import Upscaler
    from nlsr.upscale.memory import parse_size

    if threads:
        torch.set_num_threads(threads)
    upscaler = Upscaler(model, tile=tile_size, memory=parse_size(memory) if memory else None, device=_device(device))
    failed = 0
    for source, target in targets:
        target = target or source.with_name(f"{source.stem}_x{upscaler.scale}.png")
        try:
            _upscale_one(upscaler, model, source, target, quality=quality, overwrite=overwrite)
        except (ImageError, UsageError) as error:
            if len(targets) == 1:
                raise
            failed += 1
            print(f"upscale: {error}", file=sys.stderr)
    if failed:
        print(f"upscale: {failed} of {len(targets)} pictures failed, the others are done", file=sys.stderr)
        raise typer.Exit(1)


def _upscale_one(
    upscaler: "Upscaler", model: str, source: Path, target: Path, *, quality: int, overwrite: bool
) -> None:
    from nlsr.cli.progress import Counter
    from nlsr.images import read, write

    _check_target(source, target, overwrite)
    picture = read(source)
    with Counter(source.name) as counter:
        result = upscaler.upscale(picture, report=counter)
    write(target, result.picture, quality=quality, overwrite=overwrite)
    for note in picture.notes:
        print(f"upscale: {source}: {note}", file=sys.stderr)
    (height, width), (high, wide) = picture.pixels.shape[2:], result.picture.pixels.shape[2:]
    print(
        f"{model}: {width}x{height} -> {wide}x{high}, {result.plan}, {result.seconds:.1f} s, "
        f"peak {_peak_memory() / 2**20:.0f} MiB, {target}"
    )


def _targets(inputs: list[Path], output: Path | None, model: str) -> list[tuple[Path, Path | None]]:
    """Each input with its output; None where the name waits for the model's scale."""
    if output is None:
        return [(source, None) for source in inputs]
    if output.is_dir() or len(inputs) > 1:
        if not output.is_dir():
            raise UsageError(f"{output}: expected an existing folder for {len(inputs)} pictures; make it first")
        targets = [(source, output / f"{source.stem}.png") for source in inputs]
        names = [target for _, target in targets]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise UsageError(f"{twice}: two of the inputs would be written there; give them different names")
        return list(targets)
    return [(inputs[0], output)]


def _check_target(source: Path, target: Path, overwrite: bool) -> None:
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"{target}: the output is the input; choose another with -o")
    if target.exists() and not overwrite:
        raise UsageError(f"{target}: exists already; replace it with --overwrite or choose another with -o")


def _tile(text: str):  # type: ignore[no-untyped-def]
    if text in ("auto", "none"):
        return text
    if text.isdigit() and int(text) >= 16:
        return int(text)
    raise UsageError(f"--tile {text}: expected 'auto', 'none' or a number of pixels from 16 up")


def _device(text: str):  # type: ignore[no-untyped-def]
    import torch

    try:
        device = torch.device(text)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UsageError(f"--device {text}: not usable here ({str(error).splitlines()[0]}); try cpu") from error
    return device


def _peak_memory() -> int:
    """Bytes of the whole process so far."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
