"""Doing a batch: while a picture is computed, the next one is read and the last one written.

Only small pictures are held beside the one that is computed, where the budget has room for all; a large one is read
when its turn comes and written band by band. What goes wrong with one picture is said of it, and the others are done.
"""

import errno
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nlsr.errors import ImageError, NlsrError, UsageError
from nlsr.images import (
    ColourSpace,
    Picture,
    check_target,
    encoder_bytes,
    one_line,
    read,
    tone_mapped,
    without_metadata,
    write,
)
from nlsr.upscale.batch.manifest import Content, Manifest
from nlsr.upscale.batch.settings import Saving
from nlsr.upscale.batch.targets import Task
from nlsr.upscale.memory import out_of_memory
from nlsr.upscale.plan import Plan
from nlsr.upscale.stream import Report, is_opaque
from nlsr.upscale.upscaler import Outcome, Result, Upscaler

ASIDE = 16
"""The share of the budget that a picture read ahead may take, and one being written: a sixteenth each."""
READING = 32
"""Bytes per pixel while a picture is read; measured, with alpha."""


@dataclass(frozen=True)
class Done:
    """What became of a picture.

    Args:
        status: "skipped" was finished before.
        size: height and width of the picture, if it could be read.
        outcome: how it was upscaled. notes: what a user may want to know of reading and upscaling.
        error: why it failed.
    """

    task: Task
    status: Literal["done", "skipped", "failed"]
    size: tuple[int, int] | None = None
    outcome: Outcome | None = None
    notes: tuple[str, ...] = ()
    error: Exception | None = None

    @property
    def reason(self) -> str:
        """Why it failed, in one line, without the name of the picture in front."""
        if self.error is None:
            return ""
        if isinstance(self.error, NlsrError):
            text = str(self.error).removeprefix(f"{one_line(self.task.source)}: ")
        elif out_of_memory(self.error):
            text = "out of memory; close other programs, or allow less with --memory"
        else:
            text = f"{type(self.error).__name__}: {self.error}; this is a mistake of nlsr, please report it"
        return " ".join(text.split())

    @property
    def disk_is_full(self) -> bool:
        """Whether it failed as every other would."""
        error: BaseException | None = self.error
        while error is not None:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                return True
            error = error.__cause__
        return False


@dataclass(frozen=True)
class _Read:
    """A picture on its way.

    Args:
        content: the content of its file, for the manifest.
        plan: the plan of the computation, if its result may wait in memory until it is written.
        done: what will be said of it.
    """

    picture: Picture
    content: Content | None
    plan: Plan | None
    done: Done


def run(
    upscaler: Upscaler,
    tasks: Sequence[Task],
    saving: Saving,
    *,
    manifest: Manifest | None = None,
    started: Callable[[Task], None] | None = None,
    report: Report | None = None,
) -> Generator[Done, None, None]:
    """Upscale pictures in turn; what became of each is given in the order of the tasks, a little later than it was.

    Ends early after a full disk. Closing the iterator, or an interruption, waits for the result that is being written:
    nothing is ever left half written.

    Args:
        manifest: where finished results are recorded and looked up.
        started: called before a picture is computed. report: called after each of its tiles.
    """
    batch = _Batch(upscaler, saving, manifest, started, report)
    for done in batch.results(tasks):
        yield done
        if done.disk_is_full:
            return


class _Batch:
    def __init__(
        self,
        upscaler: Upscaler,
        saving: Saving,
        manifest: Manifest | None,
        started: Callable[[Task], None] | None,
        report: Report | None,
    ) -> None:
        self.upscaler, self.saving, self.manifest = upscaler, saving, manifest
        self.started, self.report = started, report
        self.aside = upscaler.budget // ASIDE

    def results(self, tasks: Sequence[Task]) -> Iterator[Done]:
        ahead: Future[_Read | Done | None] | None = None
        writing: Future[Done] | None = None
        with ThreadPoolExecutor(2) as threads:
            for task, following in zip(tasks, [*tasks[1:], None], strict=True):
                taken = ahead.result() if ahead else None
                if taken is None:  # not read ahead
                    taken = self._read(task, self.saving.max_pixels)
                before, ahead, writing = writing, None, None
                if isinstance(taken, _Read) and taken.plan:
                    if following:
                        ahead = threads.submit(self._read_ahead, following)
                    result = self._compute(taken, taken.plan)
                    if before:
                        yield before.result()
                    writing = threads.submit(self._write, taken.done, taken.content, result)
                    del result
                else:
                    if before:
                        yield before.result()
                    yield taken if isinstance(taken, Done) else self._stream(taken)
                del taken, before  # what they hold, before the next one is read
            if writing:
                yield writing.result()

    def _read_ahead(self, task: Task) -> _Read | Done | None:
        """A small picture; nothing for a large one, and for one that cannot be read, which is tried again."""
        taken = self._read(task, min(self.aside // READING, self.saving.max_pixels))
        return None if isinstance(taken, Done) and taken.error else taken

    def _read(self, task: Task, max_pixels: int) -> _Read | Done:
        done = Done(task, "done")
        try:
            if task.problem is not None:
                raise UsageError(f"{one_line(task.source)}: {task.problem}")
            if os.path.exists(task.target):  # unlike that of a Path, it takes names that are too long
                self._check_target(task, 1, 1, alpha=False)
            content = Content.of(task.source) if self.manifest and task.source.is_file() else None
            if self.manifest and content and self.manifest.finished(task.target, content):
                return replace(done, status="skipped")
            picture = read(task.source, max_pixels=max_pixels)
            if self.saving.strip:
                picture = without_metadata(picture)
            if self.saving.tone_map:
                picture = tone_mapped(picture)
            height, width = picture.pixels.shape[2:]
            done = replace(done, size=(height, width), notes=picture.notes)
            return _Read(picture, content, self._plan_in_memory(task, picture), done)
        except Exception as error:
            return _failed(done, error)

    def _plan_in_memory(self, task: Task, picture: Picture) -> Plan | None:
        """The plan of a picture if the budget has room for its result and two others beside the computation.

        Raises: ImageError and UsageError if the result cannot be written, before anything is computed.
        """
        height, width = picture.pixels.shape[2:]
        alpha = picture.alpha is not None
        _, new_height, new_width = self.upscaler.size.of(height, width, otherwise=self.upscaler.scale)
        if self.saving.make_folders:
            self._make_folder(task)
        format = self._check_target(task, new_height, new_width, alpha=alpha, space=picture.space)
        held = 4 * picture.depth // 8 * new_height * new_width + encoder_bytes(format, new_height, new_width)
        if held > self.aside:
            return None
        transparent = picture.alpha is not None and not is_opaque(picture.alpha)
        try:
            plan = self.upscaler.plan(height, width, depth=picture.depth, alpha=transparent)
        except UsageError:  # too little for the whole result; in bands it may do
            return None
        return plan if plan.predicted + 2 * self.aside <= self.upscaler.budget else None

    def _make_folder(self, task: Task) -> None:
        folder = task.target.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ImageError(f"{one_line(folder)}: cannot be made a folder ({error.strerror})") from error

    def _check_target(
        self, task: Task, height: int, width: int, *, alpha: bool, space: ColourSpace | None = None
    ) -> str:
        return check_target(
            task.target,
            height=height,
            width=width,
            alpha=alpha,
            space=space,
            overwrite=self._may_replace(task),
            format=self.saving.format,
        )

    def _may_replace(self, task: Task) -> bool:
        return self.saving.overwrite or (self.manifest is not None and self.manifest.may_replace(task.target))

    def _compute(self, taken: _Read, plan: Plan) -> Result | Exception:
        try:
            if self.started:
                self.started(taken.done.task)
            return self.upscaler.upscale(taken.picture, plan=plan, report=self.report)
        except Exception as error:
            return error

    def _write(self, done: Done, content: Content | None, result: Result | Exception) -> Done:
        if isinstance(result, Exception):
            return _failed(done, result)
        options = self._writing(done.task)

        def write_to(path: Path) -> Outcome:
            lost = write(path, result.picture, **options)
            return Outcome(result.plan, result.seconds, (*result.notes, *lost))

        return self._recorded(done, content, write_to)

    def _stream(self, taken: _Read) -> Done:
        if self.started:
            self.started(taken.done.task)
        options = self._writing(taken.done.task) | {"report": self.report}
        return self._recorded(
            taken.done, taken.content, lambda path: self.upscaler.save(taken.picture, path, **options)
        )

    def _writing(self, task: Task) -> dict[str, Any]:
        return {
            "quality": self.saving.quality,
            "overwrite": self._may_replace(task),
            "format": self.saving.format,
        }

    def _recorded(self, done: Done, content: Content | None, write_to: Callable[[Path], Outcome]) -> Done:
        target = done.task.target
        try:
            if self.manifest:
                self.manifest.begin(target)
            outcome = write_to(target)
            if self.manifest and content:
                self.manifest.finish(target, content, outcome.plan.as_dict())
        except Exception as error:
            return _failed(done, error)
        return replace(done, outcome=outcome, notes=(*done.notes, *outcome.notes))


def _failed(done: Done, error: Exception) -> Done:
    return replace(done, status="failed", error=error)
