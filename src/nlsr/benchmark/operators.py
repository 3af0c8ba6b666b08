"""The cost and the error of every operator, over resolutions; and what sharing one affinity between ten modules saves.

Each operator runs in a process of its own; the processes take turns, so that a noisy machine hurts all alike. An
operator is timed only after it has been found equal to its own dense matrix.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nlsr.attention import CrossScale, CrossScaleAttention, SharedAttention, build_operator
from nlsr.attention.global_learnable import global_learnable_values
from nlsr.benchmark.counting import count
from nlsr.benchmark.workers import Failed, Worker
from nlsr.errors import UsageError
from nlsr.memory import give_back, peak_memory, reset_peak
from nlsr.report import Report

SIZES = (64, 96, 128, 160, 224, 320)
STACK = 10
"""Modules of a stack: the number of groups of the published LCoAN."""


@dataclass
class Measurement:
    """One operator at one size: medians over the repeats."""

    operator: str
    size: int
    channels: int
    what: str
    """"forward", "training" (forward and backward), "shared" or "unshared" (stacks of ten, forward)."""
    seconds: float = math.nan
    spread: float = math.nan
    """Largest less smallest time, over the median."""
    peak_bytes: float = math.nan
    """On top of what the process held before: input, weights and libraries."""
    multiply_adds: float = math.nan
    failure: str = ""
    times: list[float] = field(default_factory=list)


def check(name: str) -> None:
    """Raises: Failed if an operator is not what its own dense matrix says, at an awkward size."""
    torch.manual_seed(0)
    operator = build_operator(name, 16, {}).double()
    features = torch.randn(2, 16, 13, 9, dtype=torch.float64)
    affinity = operator.match(features)
    values = torch.randn(2, affinity.num_keys, 5, dtype=torch.float64)
    error = (affinity.aggregate(values) - affinity.dense() @ values).abs().max().item()
    if not error < 1e-9:
        raise Failed(f"differs from its own dense matrix by {error:.2g}")


def measure(
    names: list[str],
    sizes: list[int],
    *,
    channels: int,
    what: list[str],
    repeats: int,
    threads: int,
    device: str = "cpu",
    limit: float = 120,
    modules: Sequence[str] = (),
    report: Report | None = None,
) -> list[Measurement]:
    """Times, memory and multiply-adds of operators, at square maps.

    Args:
        names: members of `nlsr.attention.OPERATORS`; others raise UsageError, as stacks of those that enlarge do.
        what: any of "forward", "training", "shared" and "unshared".
        repeats: rounds over everything; a first, shorter call warms each up.
        threads: of each process. One thread is timed by the processor's clock, several by that on the wall.
        limit: seconds that one call may take; after one that took longer or ran out of memory, larger sizes of the
            same operator are not tried.
        modules: names of modules that each process imports, because they register operators of your own.
        report: called with the number of measurements done and of all.
    """
    larger = [name for name in names if build_operator(name, channels, {}).scale > 1]
    if larger and ("shared" in what or "unshared" in what):
        raise UsageError(f"operator '{larger[0]}' enlarges what it draws, which cannot be stacked")
    sizes = sorted(set(sizes))
    workers = {name: Worker("nlsr.benchmark.operators", threads=threads, modules=modules) for name in names}
    rows = [Measurement(name, size, channels, kind) for kind in what for size in sizes for name in names]
    done = 0
    try:
        for name in names:
            workers[name].ask("check", name, limit=limit)
        for _ in range(repeats):
            for row in rows:
                _repeat(row, rows, workers[row.operator], device, limit)
                done += 1
                if report:
                    report(done, len(rows) * repeats)
    finally:
        for worker in workers.values():
            worker.close()
    for row in rows:
        if row.times:
            row.seconds = statistics.median(row.times)
            row.spread = (max(row.times) - min(row.times)) / row.seconds
    return rows


def _repeat(row: Measurement, rows: list[Measurement], worker: Worker, device: str, limit: float) -> None:
    same = [other for other in rows if (other.operator, other.what) == (row.operator, row.what)]
    if any(other.failure and other.size <= row.size for other in same):
        row.failure = row.failure or "not tried: a smaller map failed"
        return
    try:
        answer = worker.ask("run", row.operator, row.size, row.channels, row.what, device, limit=limit)
    except Failed as failure:
        row.failure, row.times = str(failure), []
        return
    row.times.append(answer["seconds"])
    row.peak_bytes = max(answer["peak_bytes"], 0.0 if math.isnan(row.peak_bytes) else row.peak_bytes)
    row.multiply_adds = answer["multiply_adds"]


def exponent(rows: list[Measurement], quantity: str) -> float:
    """The power of the pixels with which a quantity of one operator grows: slope of the logarithms, least squares."""
    measured = [(row.size**2, getattr(row, quantity)) for row in rows if not row.failure]
    points = [(math.log(pixels), math.log(value)) for pixels, value in measured if value > 0]
    if len(points) < 2:
        return math.nan
    mean_x, mean_y = (statistics.fmean(axis) for axis in zip(*points, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


class Stack(nn.Module):
    """Ten attentions of one kind: one matches and nine reuse, or all match."""

    def __init__(self, name: str, channels: int, *, share: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_block(name, channels, matches=index == 0 or not share) for index in range(STACK))
        self.share = share

    def forward(self, features: Tensor) -> Tensor:
        affinity = None
        for block in self.blocks:
            features, used = block(features, affinity)
            affinity = used if self.share else None
        return features


def _block(name: str, channels: int, *, matches: bool) -> nn.Module:
    """With the values that the paper's network makes."""
    operator = build_operator(name, channels, {}) if matches else None
    values = global_learnable_values(channels) if name == "superbit" else None
    return SharedAttention(channels, operator, values=values, residual_scale=0.1)


def _module(name: str, channels: int, what: str) -> nn.Module:
    torch.manual_seed(0)
    if what in ("shared", "unshared"):
        return Stack(name, channels, share=what == "shared")
    if name == "cross-scale":
        return CrossScaleAttention(channels, CrossScale(channels))
    return _Single(_block(name, channels, matches=True))


class _Single(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, features: Tensor) -> Tensor:
        return self.block(features)[0]


def _run(name: str, size: int, channels: int, what: str, device: str) -> dict[str, float]:
    """One call, after one at a small size."""
    key = (name, channels, what, device)
    if key not in _built:
        _built.clear()
        _built[key] = _module(name, channels, what).to(device)
        _call(_built[key], torch.randn(1, channels, 32, 32, device=device), what)
    module = _built[key]
    features = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(1)).to(device)
    seconds, peak = _timed(module, features, what)
    if (key, size) not in _counted:
        _counted[key, size] = count(lambda: _call(module, features, what))
    return {"seconds": seconds, "peak_bytes": peak, "multiply_adds": _counted[key, size]}


_built: dict[Any, nn.Module] = {}
_counted: dict[Any, float] = {}


def _timed(module: nn.Module, features: Tensor, what: str) -> tuple[float, float]:
    if features.is_cuda:
        device = features.device
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        started = time.perf_counter()
        _call(module, features, what)
        torch.cuda.synchronize(device)
        return time.perf_counter() - started, torch.cuda.max_memory_allocated(device) - before
    give_back()
    # The processor's clock counts what this one thread computes, whatever else the machine does.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    held = reset_peak()
    started = clock()
    _call(module, features, what)
    return clock() - started, peak_memory() - held


def _call(module: nn.Module, features: Tensor, what: str) -> None:
    if what == "training":
        module(features.requires_grad_()).sum().backward()
        module.zero_grad(set_to_none=True)
        features.grad = None
    else:
        with torch.inference_mode():
            module(features)


REQUESTS: dict[str, Callable[..., Any]] = {"check": check, "run": _run}
