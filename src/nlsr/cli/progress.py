"""Progress on the terminal: bars on standard error, so that standard output stays for results."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def bar(*columns: TextColumn) -> Progress:
    """A bar with a count, elapsed and remaining time; shown on a terminal only."""
    return _shown(
        TextColumn("{task.description}", markup=False),  # file names hold brackets
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )


class _Shown:
    """Bars that are shown inside a `with`."""

    progress: Progress

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()


class Counter(_Shown):
    """A bar that is told how many of how many are done."""

    def __init__(self, description: str) -> None:
        self.progress = bar()
        self.task = self.progress.add_task(description, total=None)

    def __call__(self, done: int, total: int) -> None:
        self.progress.update(self.task, completed=done, total=total)


class BatchBar(_Shown):
    """A bar for all pictures, with their rate, and one for the tiles of the picture in hand."""

    def __init__(self, num_pictures: int) -> None:
        self.progress = _shown(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
        )
        self.all = self.progress.add_task("pictures", total=num_pictures, pace="", visible=num_pictures > 1)
        self.one = self.progress.add_task("", total=None, pace="", visible=False)
        self.num_pictures, self.num_done, self.num_skipped = num_pictures, 0, 0
        self.started = time.monotonic()

    def begin(self, name: str) -> None:
        """Another picture is in hand."""
        self.progress.update(self.one, description=name, completed=0, total=None, visible=True)

    def tile(self, done: int, total: int) -> None:
        """So many of its tiles are done."""
        self.progress.update(self.one, completed=done, total=total)

    def advance(self, *, skipped: bool) -> None:
        """A picture is finished, or was before, which says nothing of the pace."""
        self.num_done += 1
        self.num_skipped += skipped
        seconds = time.monotonic() - self.started
        text = pace(self.num_done - self.num_skipped, self.num_pictures - self.num_done, seconds)
        self.progress.update(self.all, completed=self.num_done, pace=text)


def pace(done: int, left: int, seconds: float) -> str:
    """The rate at which pictures were done, and the time that the others will take at it."""
    if not done or seconds <= 0:
        return ""
    each = seconds / done
    rate = f"{1 / each:.1f} per second" if each < 1 else f"{each:.1f} s each"
    return f"{rate}, {clock(each * left)} left"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _shown(*columns: ProgressColumn) -> Progress:
    console = Console(stderr=True)
    return Progress(
        *columns,
        console=console,
        disable=not console.is_terminal,
        transient=True,
        # Results that go to a file or a program must not be drawn on the terminal.
        redirect_stdout=sys.stdout.isatty(),
    )
