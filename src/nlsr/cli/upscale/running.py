"""Doing what was asked for, with a bar; and comparing tiles with the whole."""

import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nlsr.cli.upscale.words import Words
from nlsr.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from nlsr.cli.upscale.places import Places
    from nlsr.upscale import TilingDifference, Upscaler
    from nlsr.upscale.batch import Done, Manifest, Saving, Task


def with_record(
    places: "Places",
    upscaler: "Upscaler",
    todo: "list[Task]",
    saving: "Saving",
    words: Words,
    *,
    resume: bool,
    compare_whole: Path | None,
) -> None:
    """Upscale pictures into a folder that records what is finished."""
    from nlsr.upscale.batch import Manifest, deciding

    assert places.folder is not None
    conditions = {"memory": upscaler.budget, "given": upscaler.memory is not None}
    with Manifest(places.folder, deciding(upscaler, saving), conditions, resume=resume) as manifest:
        if resume:
            manifest.clean({task.target.parent for task in todo})
            _say_what_changed(manifest)
        without_record(upscaler, todo, saving, words, manifest=manifest, compare_whole=compare_whole)


def without_record(
    upscaler: "Upscaler",
    todo: "list[Task]",
    saving: "Saving",
    words: Words,
    *,
    manifest: "Manifest | None" = None,
    compare_whole: Path | None = None,
) -> None:
    """Upscale pictures, and say of each what became of it."""
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


def check_comparison(target: Path, todo: "list[Task]", *, overwrite: bool) -> None:
    """Raises: UsageError for what could not be compared, or written after a long computation."""
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


def _compared(upscaler: "Upscaler", done: "Done", saving: "Saving", target: Path | None) -> "TilingDifference | None":
    """What the tiles changed, said by computing the picture again, in tiles and whole."""
    if target is None or done.outcome is None:
        return None
    from nlsr.images import Picture, check_format, read, write
    from nlsr.upscale import compare_tiling
    from nlsr.upscale.batch import prepared

    if done.outcome.plan.tile_size is None:
        raise UsageError("--compare-whole: it was upscaled whole, which leaves nothing to compare; add --tile N")
    format = check_format(done.task.target, height=1, width=1, format=saving.format)
    picture = read(done.task.source, max_pixels=saving.max_pixels)
    picture = replace(prepared(picture, saving, done.task.target, format), depth=32)
    tiled = upscaler.upscale(picture, plan=done.outcome.plan).picture.pixels
    whole = upscaler.upscale(picture, plan=replace(done.outcome.plan, tile_size=None)).picture.pixels
    difference = compare_tiling(tiled, whole)
    write(target, Picture(difference.picture), overwrite=saving.overwrite)
    return difference
