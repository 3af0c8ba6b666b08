"""What was measured, as tables and as pictures."""

import math
from pathlib import Path

from nlsr.benchmark.operators import STACK, Measurement, exponent
from nlsr.benchmark.quality import STRONGEST, Quality
from nlsr.benchmark.recall import Recall
from nlsr.extras import require
from nlsr.tables import markdown


def operators_table(rows: list[Measurement]) -> str:
    """One line per operator, one column per size: seconds, MiB, and the powers of the pixels with which they grow."""
    parts = []
    for what in dict.fromkeys(row.what for row in rows if row.what in ("forward", "training")):
        chosen = [row for row in rows if row.what == what]
        sizes = sorted({row.size for row in chosen})
        lines = [["operator", *(f"{size}²" for size in sizes), "time ~ pixels^", "memory ~", "multiply-adds ~"]]
        for name in dict.fromkeys(row.operator for row in chosen):
            own = [row for row in chosen if row.operator == name]
            grown = [_power(exponent(own, quantity)) for quantity in ("seconds", "peak_bytes", "multiply_adds")]
            lines.append([name, *(_cell(row) for row in sorted(own, key=lambda row: row.size)), *grown])
        title = "Forward" if what == "forward" else "Forward and backward"
        parts.append(f"{title}, {chosen[0].channels} channels: seconds / MiB\n\n{markdown(lines)}")
    return "\n\n".join(parts)


def stacks_table(rows: list[Measurement]) -> str:
    """Ten modules that share one affinity against ten that match: seconds, MiB and what is saved."""
    shared = {(row.operator, row.size): row for row in rows if row.what == "shared"}
    lines = [[f"{STACK} modules", "size", "all match", "one matches", "saved by sharing", "kmeans shared saves"]]
    for row in (row for row in rows if row.what == "unshared"):
        reusing, kmeans = shared.get((row.operator, row.size)), shared.get(("kmeans", row.size))
        cells = [row.operator, f"{row.size}²", _cell(row), _cell(reusing) if reusing else ""]
        lines.append([*cells, _saving(reusing, row), _saving(kmeans, row)])
    return f"Stacks, {rows[0].channels} channels: seconds / MiB\n\n{markdown(lines)}" if len(lines) > 1 else ""


def quality_table(operators: list[Quality], patterns: list[Quality]) -> str:
    """Error against exact attention, recall of the strongest keys, and exact attention's mass on what is reached."""
    parts = []
    for title, rows in (
        ("Untrained operators against exact attention with their own queries and keys", operators),
        ("Patterns on one trained embedding", patterns),
    ):
        lines = [["", "rounds", "relative error", f"recall of the top {STRONGEST}", "exact mass reached"]]
        lines += [
            [row.name, str(row.rounds), f"{row.error:.3f}", f"{row.recall:.3f}", f"{row.mass:.3f}"] for row in rows
        ]
        parts.append(f"{title}\n\n{markdown(lines)}")
    return "\n\n".join(parts)


def plot_operators(rows: list[Measurement], path: Path) -> None:
    """Time and memory against pixels, on logarithmic axes, with the fitted powers in the legend.

    Raises: UsageError where matplotlib is not installed.
    """
    require("matplotlib", extra="bench")
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    chosen = [row for row in rows if row.what == "forward" and not row.failure]
    if not chosen:
        return
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    axes = figure.subplots(1, 2)
    colours = colormaps["tab20"]  # two shades each of ten colours; neighbours have other marks
    for axis, quantity, label, factor in (
        (axes[0], "seconds", "seconds", 1.0),
        (axes[1], "peak_bytes", "peak memory, MiB", 2.0**-20),
    ):
        for index, name in enumerate(dict.fromkeys(row.operator for row in chosen)):
            own = sorted((row for row in chosen if row.operator == name), key=lambda row: row.size)
            axis.loglog(
                [row.size**2 for row in own],
                [getattr(row, quantity) * factor for row in own],
                marker="osD^vP*Xh"[index % 9],
                color=colours(index % colours.N),
                label=f"{name}  (pixels$^{{{exponent(own, quantity):.2f}}}$)",
            )
        axis.set_xlabel("pixels")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=7)
    figure.suptitle(f"One attention, {chosen[0].channels} channels, forward")
    figure.savefig(path, dpi=120, metadata={"Software": None})


def recall_table(rows: list[Recall]) -> str:
    """Keys and recall of each match."""
    head = ["match", "keys", "recall of the 16 most alike", "pictures"]
    return markdown([head, *([row.match, f"{row.keys:.0f}", f"{row.recall:.3f}", str(row.pictures)] for row in rows)])


def _cell(row: Measurement) -> str:
    return row.failure or f"{row.seconds:.3g} / {row.peak_bytes / 2**20:.0f}"


def _power(number: float) -> str:
    """Empty where fewer than two sizes were measured."""
    return "" if math.isnan(number) else f"{number:.2f}"


def _saving(less: Measurement | None, more: Measurement) -> str:
    if less is None or less.failure or more.failure or math.isnan(less.seconds):
        return ""
    return f"{1 - less.seconds / more.seconds:.0%}"
