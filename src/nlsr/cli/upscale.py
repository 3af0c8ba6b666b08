"""nlsr upscale: enlarge pictures."""

import base64
import contextlib
import json
import math
import os
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nlsr.cli.settings import ModelSettings, device_named, model_settings
from nlsr.default import DEFAULT_MODEL
from nlsr.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from nlsr.upscale import TilingDifference, Upscaler
    from nlsr.upscale.batch import Done, Found, Manifest, Saving, Task


def upscale(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Picture files, folders (searched with all below them) and quoted globs.",
            metavar="IN...",
            show_default=False,
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="File, or folder in which the tree of a folder is mirrored. (default: IN_x4.png beside IN)",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("-m", "--model", help="Name of packaged weights, or a weight file.")
    ] = DEFAULT_MODEL,
    settings: ModelSettings = None,
    scale: Annotated[
        float | None, typer.Option("-s", "--scale", help="Any number above 0, like 2 or 1.33. (default: the model's)")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Width of the result in pixels; the height follows.")] = None,
    height: Annotated[int | None, typer.Option(help="Height of the result in pixels; the width follows.")] = None,
    fit: Annotated[str | None, typer.Option(metavar="WxH", help="The largest size inside a box: 3840x2160.")] = None,
    tile: Annotated[
        str, typer.Option(help="Side of a tile in pixels of the input, 'none' for whole, 'auto' by memory.")
    ] = "auto",
    memory: Annotated[
        str | None, typer.Option(help="Memory budget, like 2GiB. (default: 1/4 of the machine's)")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16, or 'auto' by picture and processor.")] = "auto",
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Average over eight flips and turns: better, eight times the time.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads.")] = None,
    format: Annotated[
        str | None,
        typer.Option(help="png, jpg, jxl, webp, tif, avif or bmp. (default: the ending of OUT, or png)"),
    ] = None,
    quality: Annotated[
        int | None, typer.Option(min=1, max=100, help="Quality of JPEG, WebP and AVIF. (default: 95, AVIF 90)")
    ] = None,
    strip: Annotated[
        bool, typer.Option("--strip", help="Leave EXIF, XMP, IPTC, resolution and text out; the colours stay.")
    ] = False,
    tone_map: Annotated[
        bool, typer.Option("--tone-map", help="Bring high dynamic range (PQ, HLG) to standard range.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Names of results, from {stem}, {size}, {scale}, {model}, {ext}, {input_ext}. "
            "(default: {stem}_{size} beside IN, {stem} in a folder)",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a batch that was stopped: finished results stay.")
    ] = False,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Larger pictures are refused. (default: 200 million)")
    ] = None,
    compare_whole: Annotated[
        Path | None,
        typer.Option(metavar="DIFF.png", help="Also upscale whole; say and draw what the tiles changed, 16 times."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per picture instead of words.")] = False,
) -> None:
    """Enlarge pictures with a network: by default four times, on the CPU, in a file beside the picture.

    In a batch a bad picture is named and skipped, and the exit code is 1; ctrl-C leaves nothing half written.
    """
    import torch

    from nlsr.images import MAX_PIXELS, format_named, one_line
    from nlsr.upscale import Upscaler
    from nlsr.upscale.batch import Manifest, Naming, Saving, deciding, tasks
    from nlsr.upscale.memory import parse_size

    if format is not None:
        format_named(format)
    if threads:
        torch.set_num_threads(threads)
    found = _found(inputs, output)
    folder = _folder(found, output)
    record = folder is not None and (found.several or len(inputs) > 1 or resume)
    if resume and not record:
        raise UsageError("--resume: expected -o FOLDER, where the record of what is finished lies")
    upscaler = Upscaler(
        _model(model, model_settings(settings)),
        scale=scale,
        width=width,
        height=height,
        fit=fit,
        tile=_tile(tile),
        memory=parse_size(memory) if memory else _earlier_memory(folder if resume else None, device),
        precision=precision,  # type: ignore[arg-type]  # it is checked there
        ensemble=ensemble,
        device=device_named(device),
    )
    saving = Saving(
        format=format,
        quality=quality,
        strip=strip,
        tone_map=tone_map,
        overwrite=overwrite,
        make_folders=folder is not None,
        max_pixels=max_pixels or MAX_PIXELS,
    )
    if output is None or folder is not None:
        pattern = name or ("{stem}_{size}" if folder is None else "{stem}")
        naming = Naming(folder, pattern, _size_in_names(upscaler), _short(model), ext=_ending(format))
        targets = [naming.target(source) for source in found.sources]
    else:
        if name is not None:
            raise UsageError(f"--name {one_line(name)}: expected -o to be a folder, or left out")
        targets = [Path(output)]
    todo = sorted(tasks(found.sources, targets), key=lambda task: task.problem is None)  # problems are told first
    if compare_whole is not None:
        _check_comparison(compare_whole, todo, overwrite=overwrite)
    words = _Words(model, len(todo), as_json=as_json)
    if record:
        assert folder is not None
        conditions = {"memory": upscaler.budget, "given": upscaler.memory is not None}
        with Manifest(folder, deciding(upscaler, saving), conditions, resume=resume) as manifest:
            if resume:
                manifest.clean({task.target.parent for task in todo})
                _say_what_changed(manifest)
            _run(upscaler, todo, saving, words, manifest=manifest)
    else:
        _run(upscaler, todo, saving, words, compare_whole=compare_whole)


def _found(inputs: list[str], output: str | None) -> "Found":
    from nlsr.images import one_line
    from nlsr.upscale.batch import find

    found = find(inputs, leave_out=Path(output) if output else None)
    if found.others:
        endings = ", ".join(f"{count} {ending}" for ending, count in found.others.most_common())
        print(f"upscale: left out what is no picture: {endings}", file=sys.stderr)
    if found.in_folders and output is None:
        raise UsageError(f"{one_line(inputs[0])}: expected -o FOLDER for the results of a folder")
    return found


def _folder(found: "Found", output: str | None) -> Path | None:
    """The folder of the results; None for results beside the pictures, and for a single file."""
    from nlsr.images import one_line

    if output is None:
        return None
    path = Path(output)
    several = found.several or len(found.sources) > 1
    if not (several or path.is_dir() or output.endswith((os.sep, os.altsep or os.sep))):
        return None
    if path.exists() and not path.is_dir():
        raise UsageError(f"{one_line(output)}: expected a folder for {len(found.sources)} pictures, got a file")
    return path


def _model(name: str, settings: dict[str, Any]) -> Any:
    from nlsr.weights import load

    return load(name, **settings) if settings else name


def _tile(text: str) -> "int | Literal['auto', 'none']":
    if text == "auto":
        return "auto"
    if text == "none":
        return "none"
    if text.isascii() and text.isdigit():
        return int(text)
    raise UsageError(f"--tile {text}: expected 'auto', 'none' or a number of pixels")


def _earlier_memory(folder: Path | None, device: str) -> int | None:
    """The budget of the batch that is resumed; none if that was the machine's own and still is."""
    from nlsr.upscale.batch import conditions_of
    from nlsr.upscale.memory import default_budget

    conditions = conditions_of(folder) if folder is not None else {}
    memory = conditions.get("memory")
    if not isinstance(memory, int) or (not conditions.get("given") and memory == default_budget(device_named(device))):
        return None
    return memory


def _size_in_names(upscaler: "Upscaler") -> str:
    size = upscaler.size
    if size.fit is not None:
        return "{}x{}".format(*size.fit)
    if size.width or size.height:
        return f"w{size.width}" if size.width else f"h{size.height}"
    return f"x{size.scale or upscaler.scale:g}"


def _short(model: str) -> str:
    """The name of a model, or what its file is called."""
    return Path(model).stem if Path(model).suffix else Path(model).name


def _ending(format: str | None) -> str:
    return (format or "png").lower().removeprefix(".")


def _check_comparison(target: Path, todo: "list[Task]", *, overwrite: bool) -> None:
    from nlsr.images import check_target, one_line

    if len(todo) != 1:
        raise UsageError(f"--compare-whole: expected one picture, got {len(todo)}")
    for other in (todo[0].source, todo[0].target):
        if os.path.realpath(target) == os.path.realpath(other):
            raise UsageError(f"--compare-whole {one_line(target)}: is the picture itself; choose another name")
    check_target(target, height=1, width=1, overwrite=overwrite)


def _say_what_changed(manifest: "Manifest") -> None:
    before, now = manifest.earlier, manifest.settings
    changed = [name for name in now if before and before.get(name) != now[name]]
    if changed:
        print(
            f"upscale: --resume: not as before: {', '.join(changed)}; what was finished so is made again",
            file=sys.stderr,
        )


def _run(
    upscaler: "Upscaler",
    todo: "list[Task]",
    saving: "Saving",
    words: "_Words",
    *,
    manifest: "Manifest | None" = None,
    compare_whole: Path | None = None,
) -> None:
    from nlsr.cli.progress import BatchBar
    from nlsr.images import one_line
    from nlsr.upscale.batch import run

    bar = BatchBar(len(todo))
    results = run(
        upscaler,
        todo,
        saving,
        manifest=manifest,
        started=lambda task: bar.begin(one_line(task.source.name)),
        report=bar.tile,
    )
    try:
        with bar, contextlib.closing(results):
            for done in results:
                bar.advance(skipped=done.status == "skipped")
                words.add(done, _compared(upscaler, done, saving, compare_whole))
    except KeyboardInterrupt:
        rest = "; the same command with --resume continues" if manifest else ""
        count = f"{words.count.total()} of {len(todo)} pictures"
        raise Interrupted(f"stopped after {count}; no half picture is left{rest}") from None
    words.end(can_resume=manifest is not None)


def _compared(upscaler: "Upscaler", done: "Done", saving: "Saving", target: Path | None) -> "TilingDifference | None":
    """What the tiles changed, said by computing the picture again, in tiles and whole."""
    if target is None or done.outcome is None:
        return None
    from nlsr.images import Picture, read, write
    from nlsr.upscale import compare_tiling

    if done.outcome.plan.tile_size is None:
        raise UsageError("--compare-whole: it was upscaled whole, which leaves nothing to compare; add --tile N")
    picture = replace(read(done.task.source, max_pixels=saving.max_pixels), depth=32)
    tiled = upscaler.upscale(picture, plan=done.outcome.plan).picture.pixels
    whole = upscaler.upscale(picture, plan=replace(done.outcome.plan, tile_size=None)).picture.pixels
    difference = compare_tiling(tiled, whole)
    write(target, Picture(difference.picture), overwrite=saving.overwrite)
    return difference


class _Words:
    """What is said of the pictures: results on standard output, what went wrong on standard error."""

    def __init__(self, model: str, num_pictures: int, *, as_json: bool) -> None:
        self.model, self.num_pictures, self.as_json = model, num_pictures, as_json
        self.count: Counter[str] = Counter()
        self.failures: list[str] = []
        self.disk_is_full = False
        self.started = time.monotonic()

    def add(self, done: "Done", difference: "TilingDifference | None") -> None:
        """Raises: the error of a picture that is the only one."""
        from nlsr.images import one_line

        source = one_line(done.task.source)
        self.count[done.status] += 1
        if self.as_json:
            print(_as_json(done, difference), flush=True)
        elif done.outcome is not None:
            print(f"{self.model}: {_in_words(done)}", flush=True)
            if difference is not None:
                print(difference)
        for note in done.notes:
            print(f"upscale: {source}: {note}", file=sys.stderr)
        if done.error is None:
            return
        if self.num_pictures == 1:
            raise done.error
        self.disk_is_full |= done.disk_is_full
        self.failures.append(f"{source}: {done.reason}")
        print(f"upscale: {self.failures[-1]}", file=sys.stderr)

    def end(self, *, can_resume: bool) -> None:
        """The sum, and all that failed once more, as it may have scrolled by. Raises: Exit with 1 if any did."""
        from nlsr.cli.progress import clock

        total, failed = self.num_pictures, len(self.failures)
        if total > 1 and not self.as_json:
            before = f", {self.count['skipped']} were finished before" if self.count["skipped"] else ""
            print(f"{self.count['done']} of {total} pictures in {clock(time.monotonic() - self.started)}{before}")
        if not failed:
            return
        if self.disk_is_full:
            rest = "; free some space, and the same command with --resume continues" if can_resume else ""
            others = f"stopped, as the disk is full{rest}"
        else:
            others = "the others are done"
        lines = [f"upscale: {failed} of {total} pictures failed, {others}", *(f"  {line}" for line in self.failures)]
        print("\n".join(lines), file=sys.stderr)
        raise typer.Exit(1)


def _in_words(done: "Done") -> str:
    from nlsr.images import one_line

    assert done.outcome is not None
    plan, seconds = done.outcome.plan, done.outcome.seconds
    sizes = f"{plan.width}x{plan.height} -> {plan.new_width}x{plan.new_height}"
    return f"{sizes}, {plan}, {seconds:.1f} s, {_peak_memory()}{one_line(done.task.target)}"


def _as_json(done: "Done", difference: "TilingDifference | None") -> str:
    plan = done.outcome.plan if done.outcome else None
    content: dict[str, Any] = {
        "status": done.status,
        **_path("input", done.task.source),
        **_path("output", done.task.target),
        "size": list(done.size[::-1]) if done.size else None,
        "new_size": [plan.new_width, plan.new_height] if plan else None,
        "plan": plan.as_dict() if plan else None,
        "seconds": round(done.outcome.seconds, 3) if done.outcome else None,
        "notes": list(done.notes),
        "error": done.reason or None,
    }
    if difference is not None:
        psnr = round(difference.psnr, 3) if math.isfinite(difference.psnr) else None
        content["tiled_against_whole"] = {"psnr": psnr, "largest": difference.largest}
    return json.dumps(content)


def _path(name: str, path: Path) -> dict[str, str]:
    """A path as text, and its bytes too where they are no text."""
    raw = os.fsencode(path)
    text = raw.decode("utf-8", "replace")
    return {name: text} if text == str(path) else {name: text, f"{name}_base64": base64.b64encode(raw).decode()}


def _peak_memory() -> str:
    """Peak memory of the whole process so far, in words; empty where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"peak {peak / 2**20:.0f} MiB, "
