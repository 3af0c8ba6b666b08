"""Doing a batch: while a picture is computed, the next one is read and the last one written.

Only small pictures are held beside the one that is computed, where the budget has room for all; a large one is read
when its turn comes and written band by band. What goes wrong with one picture is said of it, and the others are done.
"""

import errno
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nlsr.errors import ImageError, NlsrError, StorageError, TargetError, UsageError
from nlsr.images import (
    Header,
    Picture,
    check_format,
    check_target,
    encoder_bytes,
    holds_alpha,
    one_line,
    read,
    read_header,
    write,
)
from nlsr.memory import out_of_memory
from nlsr.report import Report
from nlsr.upscale.batch.manifest import Content, Record
from nlsr.upscale.batch.settings import Saving, prepared
from nlsr.upscale.batch.staging import Staging
from nlsr.upscale.batch.targets import Task
from nlsr.upscale.plan import Plan
from nlsr.upscale.upscaler import Outcome, Result, Upscaler

ASIDE = 16
"""The share of the budget that a picture read ahead may take, and one being written: a sixteenth each."""


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
            text = "out of memory; close other programs, or allow less memory"
        else:
            text = f"{type(self.error).__name__}: {self.error}; this is a mistake of nlsr, please report it"
        return " ".join(text.split())

    @property
    def disk_is_full(self) -> bool:
        error: BaseException | None = self.error
        while error is not None:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                return True
            error = error.__cause__
        return False

    @property
    def ends_all(self) -> str:
        """Why every other would fail as it did, and what to do, in words; empty if others may do better."""
        if self.disk_is_full:
            return "the disk is full; free some space"
        if isinstance(self.error, StorageError):
            return "the storage does not answer as it should; mend that"
        return ""


@dataclass(frozen=True)
class _Read:
    """A picture on its way.

    Args:
        content: the content of its file, for the manifest.
        plan: the plan of the computation.
        in_memory: whether its result may wait in memory until it is written, while the next picture is computed.
        done: what will be said of it.
    """

    picture: Picture
    content: Content | None
    plan: Plan
    in_memory: bool
    done: Done


def run(
    upscaler: Upscaler,
    tasks: Sequence[Task],
    saving: Saving,
    *,
    manifest: Record | None = None,
    staging: Staging | None = None,
    alike: int | None = None,
    started: Callable[[Task], None] | None = None,
    report: Report | None = None,
) -> Generator[Done, None, None]:
    """Upscale pictures in turn; what became of each is given in the order of the tasks, a little later than it was.

    Ends early after what every other would fail of, like a full disk. Closing the iterator, or an interruption, waits
    for the result that is being written: nothing is ever left half written.

    Args:
        manifest: where finished results are recorded and looked up.
        staging: where files of object storage lie while they are in hand.
        alike: what `pictures_alike` says of all pictures, if these are a part of them.
        started: called before a picture is computed. report: called after each of its tiles.
    """
    alike = pictures_alike(upscaler, tasks, staging) if alike is None else alike
    batch = _Batch(upscaler, saving, manifest, staging, alike, started, report)
    for done in batch.results(tasks):
        yield done
        if done.ends_all:
            return


def pictures_alike(upscaler: Upscaler, tasks: Sequence[Task], staging: Staging | None = None) -> int:
    """The number of pictures if all have one size, which an engine may prepare for; else 1. Their headers are read,
    until one differs, if they are files of this machine. Pictures that are finished count too: those that are left must
    be made as all would be."""
    if upscaler.engine_name == "torch" or staging is not None:
        return 1
    first = None
    for task in tasks:
        header = _header(task.source)
        size = header and (header.height, header.width)
        if size is None or size != (first or size):
            return 1
        first = size
    return len(tasks)


def may_begin(task: Task, saving: Saving, manifest: Record, staging: Staging | None) -> bool:
    """Whether nobody else's file is where a result goes, or it may be replaced."""
    is_there = os.path.lexists(task.target) or (staging is not None and task.target in staging.entries)
    return saving.overwrite or not is_there or manifest.may_replace(task.target)


class _Batch:
    def __init__(
        self,
        upscaler: Upscaler,
        saving: Saving,
        manifest: Record | None,
        staging: Staging | None,
        alike: int,
        started: Callable[[Task], None] | None,
        report: Report | None,
    ) -> None:
        self.upscaler, self.saving, self.manifest, self.staging = upscaler, saving, manifest, staging
        self.alike, self.started, self.report = alike, started, report
        self.aside = upscaler.budget // ASIDE

    def results(self, tasks: Sequence[Task]) -> Iterator[Done]:
        ahead: Future[_Read | Done | None] | None = None
        writing: Future[Done] | None = None
        with ThreadPoolExecutor(2) as threads:
            for task, following in zip(tasks, [*tasks[1:], None], strict=True):
                taken = ahead.result() if ahead else None
                if taken is None:  # not read ahead
                    taken = self._read(task)
                before, ahead, writing = writing, None, None
                if isinstance(taken, _Read) and taken.in_memory:
                    if following:
                        ahead = threads.submit(self._read_ahead, following)
                    result = self._compute(taken)
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
        taken = self._read(task, most=self.aside)
        return None if isinstance(taken, Done) and taken.error else taken

    def _read(self, task: Task, most: int | None = None) -> _Read | Done:
        """A picture that can be upscaled; or what is to be said of it.

        Args:
            most: the bytes that reading may take.
        """
        done = Done(task, "done")
        headers: list[Header] = []
        plans: list[tuple[str, Plan]] = []

        def check(header: Header) -> None:
            if most is not None and header.reading > most:
                raise ImageError("is too large to be read ahead")
            plans.append(self._planned(task, header))
            headers.append(header)

        try:
            if task.problem is not None:
                raise UsageError(f"{one_line(task.source)}: {task.problem}")
            if not self.saving.make_folders or self._exists(task.target):
                if self.staging and self.saving.make_folders:
                    self._make_folder(task)  # here; its address has it
                self._check_target(task)
            content = self.staging.content(task.source) if self.staging else None
            if content and self._is_finished(task, content):
                return replace(done, status="skipped")
            with self.staging.at_hand(task.source) if self.staging else nullcontext():
                if content is None and self.manifest and task.source.is_file():
                    content = Content.of(task.source)
                    if self._is_finished(task, content):
                        return replace(done, status="skipped")
                picture = read(task.source, max_pixels=self.saving.max_pixels, check=check)
            format, plan = plans[-1]
            picture = prepared(picture, self.saving, task.target, format)
            height, width = picture.pixels.shape[2:]
            known = replace(headers[-1], alpha=headers[-1].alpha and holds_alpha(format))
            found = Header(height, width, picture.alpha is not None, picture.depth, known.reading)
            if found != known:
                _, plan = self._planned(task, found)  # of formats whose headers are silent
            if self.saving.make_folders:
                self._make_folder(task)
                self._check_target(task)
            done = replace(done, size=(height, width), notes=picture.notes)
            return _Read(picture, content, plan, self._fits_beside_others(picture, plan, format), done)
        except Exception as error:
            return _failed(done, error)

    def _is_finished(self, task: Task, content: Content) -> bool:
        stored = self.staging.content(task.target) if self.staging else None
        return self.manifest is not None and self.manifest.finished(task.target, content, stored)

    def _exists(self, target: Path) -> bool:
        return os.path.lexists(target) or (self.staging is not None and target in self.staging.entries)

    def _planned(self, task: Task, header: Header) -> tuple[str, Plan]:
        """The format of a result, and how it will be made; asked before pixels are read.

        Raises: ImageError and UsageError if the format cannot hold it, or if it exceeds the budget.
        """
        _, new_height, new_width = self.upscaler.size.of(header.height, header.width, otherwise=self.upscaler.scale)
        format = check_format(task.target, height=new_height, width=new_width, format=self.saving.format)
        return format, self.upscaler.plan_file(header, format=format, alike=self.alike)

    def _fits_beside_others(self, picture: Picture, plan: Plan, format: str) -> bool:
        """Whether the budget has room for the result, and for two pictures more beside the computation."""
        result = 4 * picture.depth // 8 * plan.new_height * plan.new_width
        if result + encoder_bytes(format, plan.new_height, plan.new_width) > self.aside:
            return False
        return plan.predicted + result + 2 * self.aside <= self.upscaler.budget

    def _make_folder(self, task: Task) -> None:
        folder = task.target.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TargetError(f"{one_line(folder)}: cannot be made a folder ({error.strerror})") from error

    def _check_target(self, task: Task) -> None:
        """Raises: TargetError if no result can be written there."""
        replaced = self._may_replace(task)
        if not replaced and self._exists(task.target):
            if self.manifest and self.manifest.knows(task.target):
                raise TargetError(
                    f"{one_line(task.target)}: exists already, from an earlier run; continue that with `resume`, or "
                    "replace it with `overwrite`"
                )
            if self.staging and task.target in self.staging.entries:
                raise TargetError(
                    f"{one_line(task.target)}: exists already; choose another name or allow it with `overwrite`"
                )
        check_target(task.target, height=1, width=1, overwrite=replaced, format=self.saving.format)

    def _may_replace(self, task: Task) -> bool:
        return self.saving.overwrite or (self.manifest is not None and self.manifest.may_replace(task.target))

    def _compute(self, taken: _Read) -> Result | Exception:
        try:
            if self.started:
                self.started(taken.done.task)
            return self.upscaler.upscale(taken.picture, plan=taken.plan, report=self.report)
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
        options = self._writing(taken.done.task) | {"plan": taken.plan, "report": self.report}
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
            stored = self.staging.send(target) if self.staging else None
            if self.manifest and content:
                self.manifest.finish(target, content, outcome.plan.as_dict(), stored)
        except Exception as error:
            return _failed(done, error)
        return replace(done, outcome=outcome, notes=(*done.notes, *outcome.notes))


def _header(source: Path) -> Header | None:
    """None of a file that is none of a picture; what is wrong with it is said when its turn comes."""
    with suppress(NlsrError, OSError):
        if source.is_file():  # what a pipe gives can be read once
            return read_header(source)
    return None


def _failed(done: Done, error: Exception) -> Done:
    return replace(done, status="failed", error=error)
