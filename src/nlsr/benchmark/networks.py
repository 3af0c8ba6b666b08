"""The cost of whole networks: parameters, multiply-adds, time and peak memory, each measured in a process of its own.

What would take longer than a limit, or more memory than there is, is not run but predicted, and marked so.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from nlsr import networks, tables
from nlsr.attention.streamed import uncut
from nlsr.benchmark.counting import count
from nlsr.benchmark.workers import Failed, Worker
from nlsr.errors import UsageError
from nlsr.export import check_exportable
from nlsr.memory import peak_memory, reset_peak, total_memory
from nlsr.networks import PRESETS, Network
from nlsr.report import Report
from nlsr.upscale.engine import Engine, EngineName
from nlsr.upscale.plan import ENGINE_SHARE

OUTPUT = (720, 1280)
"""Height and width of the result for which the field counts multiply-adds."""
SIZES = ((64, 64), (180, 320))
"""Height and width of the inputs that are timed."""

PARAMETERS: dict[str, dict[int, int | float]] = {
    "asid": {2: 297_516, 3: 304_011, 4: 313_104},
    "asid-d8": {2: 732_146, 3: 738_641, 4: 747_734},
    "atd": {2: 20_113_217, 3: 20_297_857, 4: 20_260_929},
    "atd-light": {2: 753_204, 3: 759_699, 4: 768_792},
    "catanet": {2: 477_435, 3: 549_635, 4: 535_195},
    "csnln": {2: 3.06e6, 3: 6.01e6, 4: 6.57e6},
    "dlsn": {2: 69_842_564, 3: 72_792_964, 4: 72_202_884},
    "enlcn": {2: 41.22e6, 3: 44.17e6, 4: 43.58e6},
    "lcoan": {2: 15_668_484, 3: 16_406_404, 4: 16_258_820},
    "nlsn": {2: 41_796_163, 3: 44_746_563, 4: 44_156_483},
    "pft": {2: 19_623_527, 3: 19_808_167, 4: 19_771_239},
    "pft-light": {2: 775_532, 3: 782_567, 4: 792_416},
    "pan": {2: 261_403, 3: 261_403, 4: 272_419},
    "smfanet": {2: 185_628, 3: 190_503, 4: 197_328},
    "smfanet-plus": {2: 480_300, 3: 486_795, 4: 495_888},
}
"""Parameters of the published code, by scale; LCoAN's include 1.3 million, and DLSN's one, that are never used."""


@dataclass(frozen=True)
class Cost:
    """One network at one size."""

    height: int
    width: int
    seconds: float | None
    """None if it was not run and there is nothing to predict it from."""
    peak_bytes: float
    predicted: bool
    """Not run: scaled from a smaller size by multiply-adds, and from the network's own estimate of its memory."""


@dataclass(frozen=True)
class Row:
    """One network."""

    name: str
    scale: int
    parameters: int
    published_parameters: float | None
    multiply_adds: float
    """At a result of 1280x720: convolutions and matrix products."""
    costs: tuple[Cost, ...]


def measure(
    names: list[str],
    *,
    scale: int,
    sizes: Sequence[tuple[int, int]] = SIZES,
    threads: int,
    limit: float = 600,
    engine: EngineName = "torch",
    modules: Sequence[str] = (),
    report: Report | None = None,
) -> Iterator[Row]:
    """The rows of a table, one by one.

    Args:
        names: names of presets; others raise UsageError, and so do those that the engine cannot run.
        sizes: height and width of the inputs, the smallest first.
        engine: what computes, in fp32.
        limit: seconds that one forward pass may take; what is predicted to take longer is not run.
        modules: names of modules that each process imports, because they register networks of your own.
        report: called with the number of measurements done and of all.
    """
    for name in names:
        if name not in PRESETS:
            raise UsageError(f"{name}: expected one of {', '.join(PRESETS)}")
        if engine != "torch":
            Engine(engine)  # or its library is missing
            with FakeTensorMode():
                check_exportable(build(name, scale))
    for number, name in enumerate(names):
        with FakeTensorMode():
            network = build(name, scale)
        costs: list[Cost] = []
        for index, (height, width) in enumerate(sizes):
            if report:
                report(number * len(sizes) + index, len(names) * len(sizes))
            smaller = costs[-1] if costs else None
            costs.append(_cost(name, network, height, width, threads, limit, smaller, engine, modules))
        high, wide = OUTPUT
        yield Row(
            name,
            scale,
            sum(parameter.numel() for parameter in network.parameters()),
            PARAMETERS.get(name, {}).get(scale),
            multiply_adds(name, scale, high // scale, wide // scale),
            tuple(costs),
        )


def build(name: str, scale: int) -> Network:
    """An untrained network by the name of its preset, in eval mode."""
    return networks.build(PRESETS[name](scale)).eval()


def exportable(name: str, scale: int) -> bool:
    """Whether engines can run a preset."""
    try:
        with FakeTensorMode():
            check_exportable(build(name, scale))
    except UsageError:
        return False
    return True


@functools.cache
def multiply_adds(name: str, scale: int, height: int, width: int) -> float:
    """Multiply-adds of a preset for one image: convolutions and matrix products, counted as they are called."""
    return count_multiply_adds(lambda: build(name, scale), height, width)


def count_multiply_adds(build: Callable[[], Network], height: int, width: int) -> float:
    """Multiply-adds of a network for one image of this low-res size.

    Convolutions and matrix products are counted as they are called. Nothing is computed, except in networks that look
    at numbers on their way.
    """
    try:
        with FakeTensorMode():
            return _count(build, height, width)
    except (DataDependentOutputException, DynamicOutputShapeException):
        return _count(build, height, width)


def _count(build: Callable[[], Network], height: int, width: int) -> float:
    with torch.no_grad(), uncut():
        network = build().eval().requires_grad_(False)  # views of fake parameters would have gradients even so
        return count(lambda: network(torch.empty(1, 3, height, width).fill_(0.5)))


def _cost(
    name: str,
    network: Network,
    height: int,
    width: int,
    threads: int,
    limit: float,
    smaller: Cost | None,
    engine: EngineName,
    modules: Sequence[str],
) -> Cost:
    pixels = height * width
    memory = network.bytes_per_pixel() * pixels * ENGINE_SHARE[engine]
    seconds = None
    if smaller and smaller.seconds is not None:
        counts = [
            multiply_adds(name, network.scale, *size) for size in ((height, width), (smaller.height, smaller.width))
        ]
        seconds = smaller.seconds * counts[0] / counts[1]
    if (seconds or 0) > limit or memory > total_memory():
        return Cost(height, width, seconds, memory, predicted=True)
    # A new one, which holds nothing of others.
    worker = Worker("nlsr.benchmark.networks", threads=threads, modules=modules)
    try:
        return Cost(
            height,
            width,
            *worker.ask("run", name, network.scale, height, width, engine, limit=10 * limit),
            predicted=False,
        )
    except Failed:  # it ran out of memory or of time after all
        return Cost(height, width, seconds, memory, predicted=True)
    finally:
        worker.close()


@torch.inference_mode()
def _run(name: str, scale: int, height: int, width: int, engine: EngineName) -> tuple[float, float]:
    """Median seconds of up to nine runs, fewer where one takes long, and peak bytes on top of the built network, or of
    what an engine makes of it."""
    built = build(name, scale).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = built if engine == "torch" else partial(Engine(engine).run, built, precision="fp32")
    image = torch.rand(1, 3, height, width).contiguous(memory_format=torch.channels_last)
    network(image[..., :16, :16])
    before = reset_peak()
    seconds: list[float] = []
    while sum(seconds) < (3 if len(seconds) < 9 else 0) or (len(seconds) < 3 and sum(seconds) < 30):
        started = time.perf_counter()
        network(image)
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[len(seconds) // 2], peak_memory() - before


def markdown(rows: list[Row]) -> str:
    """A table; predicted values begin with a tilde."""
    sizes = [f"{cost.width}x{cost.height}" for cost in rows[0].costs]
    head = ["network", "scale", "parameters", "published", "G multiply-adds at 1280x720"]
    head += [f"{size}: {what}" for size in sizes for what in ("seconds", "peak MiB")]
    lines = [head]
    for row in rows:
        published = f"{row.published_parameters:,.0f}" if row.published_parameters else ""
        cells: list[Any] = [row.name, row.scale, f"{row.parameters:,}", published, f"{row.multiply_adds / 1e9:,.1f}"]
        for cost in row.costs:
            mark = "~" if cost.predicted else ""
            cells += [
                "?" if cost.seconds is None else f"{mark}{cost.seconds:.3g}",
                f"{mark}{cost.peak_bytes / 2**20:,.0f}",
            ]
        lines.append([str(cell) for cell in cells])
    return tables.markdown(lines)


REQUESTS = {"run": _run}
"""What a worker of this module answers."""
