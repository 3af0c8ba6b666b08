"""Upscale the images of a folder and compare each with its original. Knows nothing of how images are upscaled."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nlsr.errors import ImageError, NlsrError, ShapeError
from nlsr.evaluate.datasets import Pair, PairFolder, data_set_name
from nlsr.evaluate.metrics import Score
from nlsr.evaluate.protocols import LUMA_FIRST, PAPERS, PROTOCOLS, WORDS, measure_luma_first
from nlsr.images import from_8_bits, resize, to_8_bits
from nlsr.memory import out_of_memory
from nlsr.report import Report

Upscale = Callable[[Tensor], Tensor]
"""From float32 RGB (1, 3, h, w) in [0, 1] to (1, 3, scale h, scale w), on any device; need not be clipped."""


@dataclass(frozen=True)
class Row:
    """One image: file name, (height, width) of what was compared before the border went, and a score per protocol."""

    name: str
    size: tuple[int, int]
    scores: dict[str, Score]


@dataclass(frozen=True)
class Failure:
    """One image that has no row, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Evaluation:
    """One folder at one scale; holds no times, so equal runs give equal evaluations."""

    data: str
    scale: int
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]

    @property
    def means(self) -> dict[str, Score]:
        """Over the rows, by protocol; PSNR is infinite if one of them is."""
        return {name: _mean([row.scores[name] for row in self.rows]) for name in self.rows[0].scores}

    @property
    def mean(self) -> Score:
        """Under the papers' protocol."""
        return self.means[PAPERS]

    def worst(self, count: int) -> list[Row]:
        """The rows of the lowest PSNR under the papers' protocol, lowest first; NaN is lower than any."""
        return sorted(self.rows, key=badness)[:count]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite PSNR becomes the text "inf" and NaN "nan", as JSON has neither."""
        return {
            "data": self.data,
            "scale": self.scale,
            "protocols": {name: WORDS[name] for name in self.means},
            "means": plain_scores(self.means),
            "images": [
                {"name": row.name, "size": list(row.size), "scores": plain_scores(row.scores)} for row in self.rows
            ],
            "failures": [{"name": failure.name, "reason": failure.reason} for failure in self.failures],
        }


Remember = Callable[[list[Path], Callable[[], Row]], Row]
"""Given the files of an image and what computes its row: that row, computed now or before."""


def evaluate(
    upscale: Upscale,
    folder: str | Path,
    *,
    scale: int,
    low_res: str | Path | None = None,
    protocols: Sequence[str] = (PAPERS,),
    enlarge_luma: Upscale | None = None,
    remember: Remember | None = None,
    progress: Report | None = None,
) -> Evaluation:
    """Compare upscaled images with the originals of a folder, under the papers' protocol or several.

    An image that cannot be read, is too small, has no low-res image, does not fit in memory, or that `upscale` refuses
    with an error of ours or returns in a wrong size, is named in `failures`; the others are evaluated. Metrics are
    computed on the CPU in float64.

    Args:
        upscale: called without gradients, once per image, with float32 RGB (1, 3, h, w) in [0, 1], every value a
            multiple of 1/255. A network must be in eval mode.
        folder: high-res images.
        scale: how many times smaller the low-res images are; also the border, in pixels, that metrics ignore.
        low_res: a folder of low-res images; by default they are made from the high-res ones.
        protocols: names of `PROTOCOLS`.
        enlarge_luma: enlarges a plane (1, 1, h, w) of float64 luma; adds the protocol `luma-first`.
        remember: gives rows that were computed before; by default all are computed.
        progress: called after each image with how many are done and how many there are.
    Raises: ImageError if a folder cannot be listed, has no image in it or none that can be evaluated, UsageError if
        the scale is not positive.
    """
    pairs = PairFolder(folder, scale=scale, low_res=low_res)
    rows, failures = [], []
    for index, path in enumerate(pairs.paths):

        def compute(index: int = index) -> Row:
            return _row(upscale, pairs[index], scale, protocols, enlarge_luma)

        try:
            rows.append(remember(pairs.files(index), compute) if remember else compute())
        except NlsrError as error:
            failures.append(Failure(path.name, str(error)))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            failures.append(Failure(path.name, "does not fit in memory; take smaller tiles"))
        if progress is not None:
            progress(index + 1, len(pairs))
    failures += [Failure(path.name, f"{path}: belongs to no high-res image") for path in pairs.unpaired]
    if not rows:
        first = failures[0]
        raise ImageError(
            f"{folder}: none of its {len(pairs)} images could be evaluated; the first, {first.name}: {first.reason}"
        )
    return Evaluation(data_set_name(folder), scale, tuple(rows), tuple(failures))


def bicubic(scale: int) -> Upscale:
    """The baseline of every table: MATLAB's bicubic `imresize` of 8-bit values, rounded after each pass."""
    return lambda low_res: from_8_bits(resize(to_8_bits(low_res), scale=float(scale)))


def badness(row: Row) -> float:
    """By which the worst images come first."""
    psnr = row.scores[PAPERS].psnr
    return -math.inf if math.isnan(psnr) else psnr


def plain_scores(scores: dict[str, Score]) -> dict[str, dict[str, float | str]]:
    """For JSON, and back by `scores_from_plain`."""
    return {
        name: {"psnr": _json_number(score.psnr), "ssim": _json_number(score.ssim)} for name, score in scores.items()
    }


def scores_from_plain(plain: dict[str, dict[str, float | str]]) -> dict[str, Score]:
    return {name: Score(float(score["psnr"]), float(score["ssim"])) for name, score in plain.items()}


def _row(upscale: Upscale, pair: Pair, scale: int, protocols: Sequence[str], enlarge_luma: Upscale | None) -> Row:
    with torch.no_grad():
        upscaled = upscale(pair.low_res).cpu()
    if upscaled.shape != pair.high_res.shape:
        raise ShapeError(
            f"expected an upscaled image {tuple(pair.high_res.shape)} at scale {scale}, got {tuple(upscaled.shape)}; "
            "give the scale that the model was made for"
        )
    scores = {name: PROTOCOLS[name].measure(upscaled, pair.high_res, border=scale) for name in protocols}
    if enlarge_luma is not None:
        scores[LUMA_FIRST] = measure_luma_first(pair.high_res, grey=pair.grey, scale=scale, enlarge=enlarge_luma)
    height, width = pair.high_res.shape[-2:]
    return Row(pair.name, (height, width), scores)


def _mean(scores: list[Score]) -> Score:
    return Score(*(sum(values) / len(scores) for values in zip(*scores, strict=True)))


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
