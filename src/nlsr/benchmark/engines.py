"""How long the whole command takes with each engine, from its start on: one picture, several, and large ones.

What is found is kept, and `--engine auto` chooses by it.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch

from nlsr.errors import NlsrError, UsageError
from nlsr.images import Picture, read, write
from nlsr.tables import markdown
from nlsr.upscale import Upscaler
from nlsr.upscale.engine import ENGINES
from nlsr.upscale.figures import Figure, conditions, fastest, store
from nlsr.upscale.identity import identity

SIDE, SMALL = 256, 64
"""Pixels along each side of the pictures, and of a small one."""


COUNTS = (1, 10, 100, 500)
"""Pictures of the batches that the table tells of."""


@dataclass(frozen=True)
class Large:
    """One large picture: medians of whole commands."""

    megapixels: float
    seconds: float
    processor_seconds: float
    """Of all threads; it depends less than `seconds` on what else the machine does."""
    peak_bytes: int


@dataclass(frozen=True)
class Row:
    """One model with one engine."""

    model: str
    engine: str
    start: float
    """Seconds that are taken once, from the start of the program on."""
    picture: float
    """Seconds of each picture."""
    peak_bytes: int
    """Of resident memory, with the program itself."""
    small: float = 0
    """Seconds of the whole command for one small picture."""
    processor_seconds: float = 0
    """Of each picture: of all threads; it depends less than `picture` on what else the machine does."""
    large: tuple[Large, ...] = ()
    failure: str = ""
    """Why the engine was not timed; empty if it was."""
    choices: tuple[str, ...] = ()
    """Of `auto`: the engine that it takes for each of `COUNTS` pictures."""


def measure(
    models: Sequence[str],
    *,
    precision: str = "auto",
    pictures: int = 9,
    megapixels: Sequence[float] = (),
    repeats: int = 3,
    modules: Sequence[str] = (),
    report: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Time the command with every engine that is installed, in turn, and keep the figures in the user's cache.

    Args:
        models: names of weights, or weight files.
        precision: as `Upscaler` takes it; "auto" of pictures with 8 bits.
        pictures: of the longer of two batches that are timed.
        megapixels: of large pictures that are timed too, each alone.
        repeats: runs that are timed; the median counts.
        modules: that register networks of the user's own; each command imports them.
        report: called with the number of runs done and of all.
    Raises: UsageError if the cache cannot be written, CheckpointError for a model that cannot be loaded.
    """
    engines = [name for name in ENGINES if find_spec(name) is not None]
    batches = ["small", "one", "several", *(f"{size:g}" for size in megapixels)]
    rows = []
    runs = len(models) * ((1 + len(batches) * repeats) * len(engines) + repeats)
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        if report:
            report(done, runs)

    with tempfile.TemporaryDirectory(prefix="nlsr-") as name:
        folder = Path(name)
        run = partial(_run, folder, precision, modules)
        _make_pictures(folder, pictures, megapixels)
        for model in models:
            upscaler = Upscaler(model, precision=precision)  # type: ignore[arg-type]  # it is checked there
            failures = {}
            for engine in engines:  # the first run makes graphs and fills caches
                failures[engine] = run(model, engine, "one").failure
                tell()
            working = [engine for engine in engines if not failures[engine]]
            timed: dict[tuple[str, str], list[_Run]] = {}
            for _ in range(repeats):
                for batch in batches:
                    for engine in working:
                        timed.setdefault((engine, batch), []).append(run(model, engine, batch))
                        tell()
            measured = [_row(model, engine, timed, pictures, megapixels) for engine in working]
            rows += measured
            rows += [Row(model, engine, 0, 0, 0, failure=failures[engine]) for engine in engines if failures[engine]]
            network = upscaler.models.network(upscaler.models.scales[-1])
            try:
                known = [Figure(row.engine, row.start, row.picture) for row in measured]
                store(conditions(identity(network), precision), known)
            except OSError as error:
                raise UsageError(
                    f"the cache cannot be written ({error.strerror}); set NLSR_CACHE to a folder"
                ) from error
            chosen = []
            for _ in range(repeats):  # `auto` does what these figures say
                chosen.append(run(model, "auto", "small").seconds)
                tell()
            rows.append(_row_of_auto(model, known, median(chosen)))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown: seconds of a small picture, of batches of `COUNTS` pictures and of large pictures, and memory."""
    sizes = [each.megapixels for row in rows for each in row.large if row is rows[0]]
    head = [
        "model",
        "engine",
        f"1 x {SMALL}x{SMALL}",
        *(f"{count} x {SIDE}x{SIDE}" for count in COUNTS),
        "processor s each",
        "peak MiB",
    ]
    head += [f"{size:g} MP{what}" for size in sizes for what in ("", ": processor s", ": peak MiB")]
    lines = [head]
    for row in rows:
        cells = [f"{row.small:.3g} s", *(f"{row.start + count * row.picture:.3g} s" for count in COUNTS)]
        cells += [f"{row.processor_seconds:.3g}", f"{row.peak_bytes / 2**20:,.0f}"]
        for each in row.large:
            cells += [f"{each.seconds:.3g} s", f"{each.processor_seconds:.3g}", f"{each.peak_bytes / 2**20:,.0f}"]
        if row.choices:
            cells = [f"{row.small:.3g} s", *row.choices]
        if row.failure:
            cells = [row.failure]
        cells += [""] * (len(head) - 2 - len(cells))
        lines.append([row.model, row.engine, *cells])
    return markdown(lines, words=2)


@dataclass(frozen=True)
class _Run:
    seconds: float
    processor_seconds: float
    peak_bytes: int
    failure: str


def _make_pictures(folder: Path, count: int, megapixels: Sequence[float]) -> None:
    """Parts of a photo, and the photo enlarged; 8 bits."""
    from nlsr.export.proof import example

    photo = example()
    enlarged = torch.nn.functional.interpolate(photo, size=(SIDE + count, SIDE + count), mode="bicubic").clamp(0, 1)
    (folder / "small").mkdir()
    write(folder / "small" / "0.png", Picture(photo[..., :SMALL, :SMALL].contiguous()))
    for number, part in ((1, "one"), (count, "several")):
        (folder / part).mkdir()
        for index in range(number):
            write(folder / part / f"{index}.png", Picture(enlarged[..., index : index + SIDE, :SIDE].contiguous()))
    for size in megapixels:
        sides = round((size * 750_000) ** 0.5), round((size * 4e6 / 3) ** 0.5)
        large = torch.nn.functional.interpolate(photo, size=sides, mode="bicubic").clamp(0, 1)
        (folder / f"{size:g}").mkdir()
        write(folder / f"{size:g}" / "0.png", Picture(large))
    assert read(folder / "one" / "0.png").depth == 8


def _run(folder: Path, precision: str, modules: Sequence[str], model: str, engine: str, batch: str) -> _Run:
    """The command in a process of its own."""
    words = ["upscale", str(folder / batch), "-o", str(folder / "out"), "--overwrite"]
    words += ["--model", model, "--engine", engine, "--precision", precision]
    words += ["--threads", str(torch.get_num_threads()), *(f"--import={module}" for module in modules)]
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "nlsr", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = process.stderr.read().decode(errors="replace").strip()
    process.stderr.close()
    peak, processor = 0, 0.0
    if hasattr(os, "wait4"):
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        processor = used.ru_utime + used.ru_stime
        peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    seconds = time.perf_counter() - started
    code = process.wait()
    if code and engine == "torch":
        raise NlsrError(said.splitlines()[-1] if said else f"nlsr upscale ended with {code}")
    failure = said.splitlines()[-1] if code and said else f"ended with {code}" if code else ""
    return _Run(seconds, processor, peak, failure)


def _row(
    model: str,
    engine: str,
    timed: dict[tuple[str, str], list[_Run]],
    pictures: int,
    megapixels: Sequence[float],
) -> Row:
    one, several = (median(run.seconds for run in timed[engine, batch]) for batch in ("one", "several"))
    picture = max(0.0, (several - one) / (pictures - 1))
    busy, longer = (median(run.processor_seconds for run in timed[engine, batch]) for batch in ("one", "several"))
    peak = max(run.peak_bytes for run in timed[engine, "several"])
    large = tuple(
        Large(
            size,
            median(run.seconds for run in timed[engine, f"{size:g}"]),
            median(run.processor_seconds for run in timed[engine, f"{size:g}"]),
            max(run.peak_bytes for run in timed[engine, f"{size:g}"]),
        )
        for size in megapixels
    )
    small = median(run.seconds for run in timed[engine, "small"])
    return Row(model, engine, one - picture, picture, peak, small, max(0.0, (longer - busy) / (pictures - 1)), large)


def _row_of_auto(model: str, known: Sequence[Figure], small: float) -> Row:
    return Row(model, "auto", 0, 0, 0, small, choices=tuple(fastest(known, count) for count in COUNTS))
