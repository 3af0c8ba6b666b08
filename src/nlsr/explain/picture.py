"""An explanation as one picture made to be looked at."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, isnan
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from nlsr.explain.attribution import blur
from nlsr.explain.explanation import Explanation
from nlsr.explain.origins import Sources
from nlsr.explain.region import Region, around
from nlsr.extras import require

PANEL, LABEL, HEAD, GAP = {2: 6.0, 3: 4.6}, 0.56, 0.95, 0.2
"""In inches: the width of a panel for 2 and for 3 in a row; the height of the text above a panel, and of that above all
of them; the distance between panels."""
RATIOS = 0.7, 1.5
"""Height over width of the tallest panel: that of the picture, but not below the first or above the second number."""
DOTS_PER_INCH = 110
SMOOTHING = 1 / 220
"""Standard deviation by which a heat map is blurred, per pixel of its longer side: single pixels would vanish."""
CONTEXT = 3
"""How many times as wide as the attributed window the panel of the result is."""

_INK, _PAPER, _MARK, _FRAME = "#191919", "#fafaf8", "#eb3c28", "#22a7f0"
_REACHED = (0.99, 0.72, 0.15)


@dataclass(frozen=True)
class _Panel:
    title: str
    says: str
    image: Float[Tensor, "3 h w"]
    mark: Callable[[Any], None]
    """Draws on axes that show the image."""


def render(
    explanation: Explanation, image: Float[Tensor, "1 3 h w"], *, title: str
) -> UInt8[Tensor, "1 3 height width"]:
    """The picture of an explanation.

    Args:
        image: the one that was explained.
        title: what is written above.
    Raises: UsageError if matplotlib is missing.
    """
    require("matplotlib", extra="bench")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(explanation, image[0].detach().float().clamp(0, 1).cpu())
    columns = 3 if len(panels) % 2 or _ratio(image) > 1 else 2
    side = PANEL[columns]
    rows = [panels[first : first + columns] for first in range(0, len(panels), columns)]
    tallest = min(max(RATIOS[0], _ratio(image)), RATIOS[1])
    heights = [LABEL + side * min(tallest, max(_ratio(panel.image) for panel in row)) for row in rows]
    width, height = columns * (side + GAP) + GAP, HEAD + sum(heights) + len(rows) * GAP
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor=_PAPER)
    canvas = FigureCanvasAgg(figure)

    def write(left: float, top: float, text: str, **style: Any) -> None:
        figure.text(left / width, 1 - top / height, text, color=_INK, va="top", parse_math=False, **style)

    write(GAP, GAP, title, size=19, weight="bold")
    write(GAP, GAP + 0.38, _summary(explanation), size=12.5)
    top = HEAD
    for row, row_height in zip(rows, heights, strict=True):
        for column, panel in enumerate(row):
            left = GAP + column * (side + GAP)
            write(left, top, panel.title, size=13.5, weight="bold")
            write(left, top + 0.25, panel.says, size=11.5)
            bottom = 1 - (top + row_height) / height
            axes = figure.add_axes((left / width, bottom, side / width, (row_height - LABEL) / height))
            axes.set_axis_off()
            axes.set_anchor("NW")
            axes.imshow(panel.image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
            panel.mark(axes)
        top += row_height + GAP
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].contiguous()


def _summary(explanation: Explanation) -> str:
    x, y = explanation.at
    region, drawn = explanation.region, explanation.sources
    if drawn is None:
        return f"pixel {x},{y} · x{explanation.scale} · no affinity: attribution only"
    which = f", affinity {drawn.index} of 0 to {drawn.num_affinities - 1}" if drawn.num_affinities > 1 else ""
    return (
        f"pixel {x},{y} · x{explanation.scale} · {drawn.operator}{which} · "
        f"matched in {region.width}x{region.height} pixels"
    )


def _panels(explanation: Explanation, image: Tensor) -> list[_Panel]:
    panels = [_where(explanation, image)]
    if explanation.sources is not None:
        part = explanation.region.of(image)
        at = explanation.region.inside(*explanation.at)
        panels.append(_heat(explanation.sources, part, at))
        if explanation.sources.groups is not None:
            panels.append(_groups(explanation.sources, explanation.sources.groups, part, at))
        if explanation.sources.reach is not None:
            panels.append(_reach(explanation.sources, explanation.sources.reach, part, at))
    return [*panels, _attribution(explanation, image), _result(explanation)]


def _where(explanation: Explanation, image: Tensor) -> _Panel:
    drawn, region = explanation.sources, explanation.region

    def mark(axes: Any) -> None:
        _frame(axes, explanation.attribution_region)
        if drawn is not None:
            if region.area < image[0].numel():
                _frame(axes, region, dashes="--")
            _circles(axes, drawn, region)
        _cross(axes, explanation.at)

    says = "blue: where the result is attributed"
    if drawn is not None:
        says = f"and the {len(drawn.strongest)} positions it draws on most; blue: attributed"
    return _Panel("The pixel", says, image, mark)


def _heat(drawn: Sources, image: Tensor, at: tuple[int, int]) -> _Panel:
    sigma = max(drawn.heat.shape) * SMOOTHING
    reach = min(ceil(3 * sigma), min(drawn.heat.shape) - 1)  # a strip is narrower than the blur
    smooth = blur(drawn.heat[None, None].float(), sigma, size=2 * reach + 1)[0, 0]
    falling = drawn.heat.flatten().sort(descending=True).values.cumsum(0)
    half = int((falling < falling[-1] / 2).sum()) + 1
    says = f"half of it from {half:,} of {drawn.heat.numel():,} pixels (root, smoothed)"
    shown = _overlaid(image, _strength(smooth), "inferno")
    return _Panel("What it draws", says, shown, lambda axes: _cross(axes, at))


def _groups(drawn: Sources, groups: Int[Tensor, "r h w"], image: Tensor, at: tuple[int, int]) -> _Panel:
    own = int((groups[0] == groups[0, at[1], at[0]]).sum())
    first = f" (first of {len(groups)} rounds)" if len(groups) > 1 else ""
    says = f"{len(groups[0].unique())} in the picture, {own:,} pixels in its own{first}"
    shown = 0.68 * _colours(groups[0]) + 0.32 * image.mean(0)
    return _Panel(drawn.groups_are[0].upper() + drawn.groups_are[1:], says, shown, lambda axes: _cross(axes, at))


def _reach(drawn: Sources, reach: Bool[Tensor, "h w"], image: Tensor, at: tuple[int, int]) -> _Panel:
    says = f"{int(reach.sum()):,} of {reach.numel():,} pixels {drawn.reach_is}"
    shown = torch.where(reach, torch.tensor(_REACHED)[:, None, None], _dimmed(image))
    return _Panel("What it could draw on", says, shown, lambda axes: _cross(axes, at))


def _attribution(explanation: Explanation, image: Tensor) -> _Panel:
    region, window = explanation.attribution_region, explanation.attribution.window
    index, scale = explanation.attribution.diffusion_index, explanation.scale

    def mark(axes: Any) -> None:
        _frame(axes, window, scale=scale)

    title = "Local attribution: nothing, the picture is flat" if isnan(index) else f"Local attribution, DI {index:.2f}"
    says = f"of the window's detail, to {region.width}x{region.height} pixels (root)"
    shown = _overlaid(region.of(image), _strength(explanation.attribution.map), "inferno")
    return _Panel(title, says, shown, mark)


def _result(explanation: Explanation) -> _Panel:
    window, upscaled = explanation.attribution.window, explanation.attribution.upscaled
    x, y = window.left + window.width // 2, window.top + window.height // 2
    part = around(x, y, CONTEXT * window.width, width=upscaled.shape[2], height=upscaled.shape[1])
    left, top = part.inside(window.left, window.top)

    def mark(axes: Any) -> None:
        _frame(axes, Region(left, top, window.width, window.height))

    says = f"the window of {window.width}x{window.height} upscaled pixels"
    return _Panel("The result", says, part.of(upscaled).float(), mark)


def _circles(axes: Any, drawn: Sources, region: Region) -> None:
    """Around the strongest positions, larger where more is drawn."""
    x, y = drawn.strongest.T.numpy()
    weights = drawn.heat.numpy()[y, x]
    sizes = 40 + 200 * weights / weights.max(initial=0)
    axes.scatter(x + region.left, y + region.top, s=sizes, facecolors="none", edgecolors=_MARK, linewidths=1.5)


def _cross(axes: Any, at: tuple[int, int]) -> None:
    """A cross that leaves its middle free."""
    for width, colour in ((3.6, "white"), (1.8, _MARK)):
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            axes.annotate(
                "",
                xy=at,
                xytext=(18 * dx, 18 * dy),
                textcoords="offset points",
                arrowprops=dict(arrowstyle="-", color=colour, lw=width, shrinkA=0, shrinkB=6),
            )


def _frame(axes: Any, region: Region, *, scale: int = 1, dashes: str = "-") -> None:
    """Around a region of an image `scale` times as large as the one that is shown."""
    from matplotlib.patches import Rectangle

    corner = (region.left / scale - 0.5, region.top / scale - 0.5)
    axes.add_patch(
        Rectangle(corner, region.width / scale, region.height / scale, fill=False, ec=_FRAME, lw=2, ls=dashes)
    )


def _ratio(image: Tensor) -> float:
    return image.shape[-2] / image.shape[-1]


def _strength(weights: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """The square root of the share of the largest; zeros if all are."""
    weights = weights.float().clamp_min(0)
    return (weights / weights.max().clamp_min(torch.finfo(weights.dtype).tiny)).sqrt()


def _dimmed(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    return (0.45 * image.mean(0, keepdim=True)).expand(3, -1, -1)


def _overlaid(image: Float[Tensor, "3 h w"], strength: Float[Tensor, "h w"], map: str) -> Float[Tensor, "3 h w"]:
    """The dimmed image where the strength is 0, the colours of a map where it is 1."""
    import matplotlib

    colours = matplotlib.colormaps[map](strength.numpy())[..., :3].astype(np.float32)
    opacity = (1.6 * strength).clamp(0, 1)
    return _dimmed(image) * (1 - opacity) + torch.from_numpy(colours).permute(2, 0, 1) * opacity


def _colours(codes: Int[Tensor, "h w"]) -> Float[Tensor, "3 h w"]:
    """A colour for each code; neighbouring codes get colours far from each other."""
    from matplotlib.colors import hsv_to_rgb

    hue = (codes.numpy() * 0.61803398875) % 1
    tone = 0.55 + 0.45 * ((codes.numpy() * 0.7548776662) % 1)
    colours = hsv_to_rgb(np.stack((hue, np.full_like(hue, 0.75), tone), axis=-1)).astype(np.float32)
    return torch.from_numpy(colours).permute(2, 0, 1)
