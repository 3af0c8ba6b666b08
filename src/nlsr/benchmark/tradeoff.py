"""Quality against time, from what `nlsr evaluate -o` found: models that were evaluated together, on one machine.

Times are those of the evaluation, whole images one after the other; of runs on other machines they cannot be compared.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlsr.errors import UsageError
from nlsr.evaluate.output import TIMING
from nlsr.evaluate.protocols import PAPERS
from nlsr.extras import require
from nlsr.tables import markdown

RESULTS = "results.json"


@dataclass(frozen=True)
class Point:
    """One model on one data set.

    Args:
        psnr: mean of luma, in dB, under the papers' protocol.
        seconds: per megapixel of the result; None for what was not timed, like bicubic.
    """

    model: str
    scale: int
    data: str
    psnr: float
    seconds: float | None


def points(folder: Path) -> list[Point]:
    """What a folder of results holds.

    Raises: UsageError if it is not one that `nlsr evaluate -o` wrote.
    """
    try:
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))["results"]
        timing = json.loads((folder / TIMING).read_text(encoding="utf-8"))
        return [_point(result, timing) for result in results]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder}: expected the folder of a finished `nlsr evaluate -o` run") from error


def _point(result: dict[str, Any], timing: dict[str, Any]) -> Point:
    model, scale, data = result["model"], result["scale"], result["data"]
    seconds = None
    for name, images in timing.items():
        start, _, path = name.partition(f"{model} x{scale} on ")
        if not start and Path(path).name == data:
            timed = [image for image in result["images"] if image["name"] in images]
            pixels = sum(image["size"][0] * image["size"][1] for image in timed)
            seconds = 1e6 * sum(images[image["name"]]["seconds"] for image in timed) / pixels if pixels else None
    return Point(model, scale, data, float(result["means"][PAPERS]["psnr"]), seconds)


def tradeoff_table(found: list[Point]) -> str:
    lines = [["model", "scale", "data", "PSNR of luma, dB", "seconds per result megapixel"]]
    for point in found:
        seconds = "" if point.seconds is None else f"{point.seconds:.3g}"
        lines.append([_short(point.model), str(point.scale), point.data, f"{point.psnr:.3f}", seconds])
    return markdown(lines, words=3)


def plot_tradeoff(found: list[Point], path: Path) -> None:
    """One panel per data set and scale; what took no network is a level line.

    Raises: UsageError where matplotlib is not installed.
    """
    require("matplotlib", extra="bench")
    from matplotlib.figure import Figure

    sets = list(dict.fromkeys((point.data, point.scale) for point in found))
    figure = Figure(figsize=(5 * len(sets), 4.2), layout="constrained")
    for axis, (data, scale) in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
        own = [point for point in found if (point.data, point.scale) == (data, scale)]
        colours = {model: f"C{index}" for index, model in enumerate(dict.fromkeys(point.model for point in found))}
        for point in own:
            name, colour = _short(point.model), colours[point.model]
            if point.seconds is None:
                axis.axhline(point.psnr, color=colour, linestyle="--", label=name)
            else:
                axis.semilogx(point.seconds, point.psnr, "o", color=colour, markersize=9, label=name)
        axis.set_title(f"{data}, x{scale}")
        axis.set_xlabel("seconds per megapixel of the result")
        axis.set_ylabel("PSNR of luma, dB")
        axis.margins(0.2)
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _short(model: str) -> str:
    return Path(model).stem if Path(model).suffix else model
