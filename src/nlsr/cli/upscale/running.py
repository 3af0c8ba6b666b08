"""Doing what was asked for, with a bar; and comparing tiles with the whole."""

import contextlib
import os
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nlsr import storage
from nlsr.cli.upscale.words import Words
from nlsr.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from nlsr.cli.progress import BatchBar
    from nlsr.cli.upscale.places import Places
    from nlsr.upscale import TilingDifference, Upscaler
    from nlsr.upscale.batch import Done, Manifest, Saving, Staging, Task


def with_record(
    places: "Places",
    upscaler: "Upscaler",
    todo: "list[Task]",
    saving: "Saving",
    words: Words,
    *,
    resume: bool,
    compare_whole: Path | None,
    ray: str | None = None,
    workers: int | None = None,
) -> None:
    """Upscale pictures into a folder that records what is finished, here or on the workers of a Ray cluster."""
    from nlsr.upscale.batch import Manifest, StoredManifest, deciding, may_begin

    assert places.folder is not None
    staging = words.standard.staging
    decided = deciding(upscaler, saving), {"memory": upscaler.budget, "given": upscaler.memory is not None}
    if staging is not None and staging.address(places.folder):
        record: Manifest = StoredManifest(staging, places.folder, *decided, resume=resume)
    else:
        record = Manifest(places.folder, *decided, resume=resume)
    with record as manifest:
        if isinstance(manifest, StoredManifest):
            manifest.begin(*(task.target for task in todo if may_begin(task, saving, manifest, staging)))
        if resume:
            manifest.clean({task.target.parent for task in todo})
            _say_what_changed(manifest)
        if ray is None:
            without_record(upscaler, todo, saving, words, manifest=manifest, compare_whole=compare_whole)
        else:
            _on_cluster(ray, upscaler, todo, saving, words, manifest, workers)


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
        staging=words.standard.staging,
        started=lambda task: bar.begin(one_line(task.source.name)),
        report=bar.tile,
    )
    _tell(
        results,
        bar,
        words,
        len(todo),
        can_resume=manifest is not None,
        compared=partial(_compared, upscaler, saving, compare_whole),
    )


def _on_cluster(
    address: str,
    upscaler: "Upscaler",
    todo: "list[Task]",
    saving: "Saving",
    words: Words,
    manifest: "Manifest",
    workers: int | None,
) -> None:
    # Read when Ray is imported, which would else tell among the results of workers that died.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    from nlsr import ray
    from nlsr.cli.progress import BatchBar

    with ray.cluster(address):
        staging = words.standard.staging
        results = ray.run(upscaler, todo, saving, manifest=manifest, staging=staging, workers=workers)
        _tell(results, BatchBar(len(todo)), words, len(todo), can_resume=True)


def _tell(
    results: "Generator[Done, None, None]",
    bar: "BatchBar",
    words: Words,
    total: int,
    *,
    can_resume: bool,
    compared: "Callable[[Done], TilingDifference | None]" = lambda done: None,
) -> None:
    """Say of each picture what became of it."""
    try:
        with bar, contextlib.closing(results):
            for done in results:
                bar.advance(skipped=done.status == "skipped")
                words.add(done, compared(done))
    except KeyboardInterrupt:
        rest = "; the same command with --resume continues" if can_resume else ""
        count = f"{words.count.total()} of {total} pictures"
        raise Interrupted(f"stopped after {count}; no half picture is left{rest}") from None
    words.end(can_resume=can_resume)


def look_elsewhere(staging: "Staging | None", places: "Places", *, resume: bool, compared: bool) -> None:
    """Learn what lies at the address of the results. Raises: UsageError for what files of storage do not take."""
    from nlsr.upscale.batch import fetch_record

    if staging is None:
        return
    if compared:
        raise UsageError("--compare-whole: expected files of this machine")
    if places.folder is not None and staging.address(places.folder):
        if resume:
            fetch_record(staging, places.folder)
        if not places.record:
            staging.look(places.folder)
    elif places.file is not None and (address := staging.address(places.file)):
        entry = storage.entry(address)
        if entry is not None:
            staging.entries[places.file] = entry


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


def _compared(upscaler: "Upscaler", saving: "Saving", target: Path | None, done: "Done") -> "TilingDifference | None":
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
