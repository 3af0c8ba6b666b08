"""nlsr upscale: enlarge pictures."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nlsr.errors import ImageError, Interrupted, UsageError

if TYPE_CHECKING:
    import torch

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
        str | None, typer.Option(help="Memory budget, like 2GiB. [default: 1/4 of the machine's]")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace existing files.")] = False,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of JPEG, WebP and AVIF.")] = 95,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads.")] = None,
) -> None:
    """Enlarge pictures with a network: by default four times, on the CPU, in a file beside the picture."""
    tile_size = _tile(tile)

    import torch

    from nlsr.upscale import Upscaler
    from nlsr.upscale.memory import parse_size

    if threads:
        torch.set_num_threads(threads)
    upscaler = Upscaler(model, tile=tile_size, memory=parse_size(memory) if memory else None, device=_device(device))
    targets = _targets(inputs, output, upscaler.scale)
    failed = 0
    for done, (source, target) in enumerate(targets):
        try:
            _upscale_one(upscaler, model, source, target, quality=quality, overwrite=overwrite)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped after {done} of {len(targets)} pictures; no half picture is left") from None
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
    from nlsr.images import check_target, read, write

    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"{target}: the output is the input; choose another with -o")
    picture = read(source)
    high, wide = (side * upscaler.scale for side in picture.pixels.shape[2:])
    check_target(target, height=high, width=wide, alpha=picture.alpha is not None, overwrite=overwrite)
    with Counter(source.name) as counter:
        result = upscaler.upscale(picture, report=counter)
    write(target, result.picture, quality=quality, overwrite=overwrite)
    for note in picture.notes:
        print(f"upscale: {source}: {note}", file=sys.stderr)
    height, width = picture.pixels.shape[2:]
    print(
        f"{model}: {width}x{height} -> {wide}x{high}, {result.plan}, {result.seconds:.1f} s, {_peak_memory()}{target}"
    )


def _targets(inputs: list[Path], output: Path | None, scale: int) -> list[tuple[Path, Path]]:
    """Each input with its output."""
    if output is None:
        targets = [source.with_name(f"{source.stem}_x{scale}.png") for source in inputs]
    elif output.is_dir():
        targets = [output / f"{source.stem}.png" for source in inputs]
    elif len(inputs) > 1:
        raise UsageError(f"{output}: expected an existing folder for {len(inputs)} pictures; make it first")
    else:
        targets = [output]
    twice = next((target for target in targets if targets.count(target) > 1), None)
    if twice:
        raise UsageError(f"{twice}: two of the inputs would be written there; give them different names")
    return list(zip(inputs, targets, strict=True))


def _tile(text: str) -> "int | Literal['auto', 'none']":
    if text == "auto":
        return "auto"
    if text == "none":
        return "none"
    if text.isdigit() and int(text) >= 16:
        return int(text)
    raise UsageError(f"--tile {text}: expected 'auto', 'none' or a number of pixels from 16 up")


def _device(text: str) -> "torch.device":
    import torch

    try:
        device = torch.device(text)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UsageError(f"--device {text}: not usable here ({str(error).splitlines()[0]}); try cpu") from error
    return device


def _peak_memory() -> str:
    """Of the whole process so far; nothing where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"peak {peak / 2**20:.0f} MiB, "
