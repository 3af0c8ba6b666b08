"""Upscale the images of a folder and compare each with its original. Knows nothing of how images are upscaled."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nlsr.errors import ImageError, NlsrError, ShapeError
from nlsr.evaluate.datasets import Pair, PairFolder, from_8_bits, to_8_bits
from nlsr.evaluate.protocols import PROTOCOLS
from nlsr.images import resize

Upscale = Callable[[Tensor], Tensor]
"""From float32 RGB (1, 3, h, w) in [0, 1] to (1, 3, scale h, scale w), on any device; need not be clipped."""

PROTOCOL = "luma"
"""The papers' protocol, which every table reports."""


@dataclass(frozen=True)
class Row:
    """One image: file name, (height, width) of what was compared before the border went, dB, SSIM."""

    name: str
    size: tuple[int, int]
    psnr: float
    ssim: float


@dataclass(frozen=True)
class Failure:
    """One image that has no row, and why."""

    name: str
    reason: str


class Mean(NamedTuple):
    """Mean over the rows; PSNR is infinite if one of them is."""

    psnr: float
    ssim: float


@dataclass(frozen=True)
class Evaluation:
    """One folder at one scale under one protocol; holds no times, so equal runs give equal evaluations."""

    data: str
    scale: int
    protocol: str
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]

    @property
    def mean(self) -> Mean:
        count = len(self.rows)
        return Mean(sum(row.psnr for row in self.rows) / count, sum(row.ssim for row in self.rows) / count)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite PSNR becomes the text "inf" and NaN "nan", as JSON has neither."""
        return {
            "data": self.data,
            "scale": self.scale,
            "protocol": {"name": self.protocol, "words": PROTOCOLS[self.protocol].words},
            "mean": {key: _json_number(value) for key, value in self.mean._asdict().items()},
            "rows": [
                asdict(row) | {"size": list(row.size), "psnr": _json_number(row.psnr), "ssim": _json_number(row.ssim)}
                for row in self.rows
            ],
            "failures": [asdict(failure) for failure in self.failures],
        }


def evaluate(
    upscale: Upscale, folder: str | Path, *, scale: int, progress: Callable[[int, int], None] | None = None
) -> Evaluation:
    """Compare upscaled images with the originals of a folder, under the protocol `luma`.

    An image that cannot be read, is too small, or that `upscale` refuses with an error of ours or returns in a wrong
    size, is named in `failures`, and the others go on. Metrics are computed on the CPU in float64.

    Args:
        upscale: called without gradients, once per image, with float32 RGB (1, 3, h, w) in [0, 1], every value a
            multiple of 1/255. A network must be in eval mode.
        folder: high-res images; the low-res ones are made from them.
        scale: of the low-res images, and the border that metrics ignore.
        progress: called after each image with how many are done and how many there are.
    Raises: ImageError if the folder cannot be listed, has no image in it or none that can be evaluated, UsageError if
        the scale is not positive.
    """
    pairs = PairFolder(folder, scale=scale)
    rows, failures = [], []
    for index, path in enumerate(pairs.paths):
        try:
            rows.append(_row(upscale, pairs[index], scale))
        except NlsrError as error:
            failures.append(Failure(path.name, str(error)))
        if progress is not None:
            progress(index + 1, len(pairs))
    if not rows:
        first = failures[0]
        raise ImageError(
            f"{folder}: none of its {len(failures)} images could be evaluated; the first, {first.name}: {first.reason}"
        )
    return Evaluation(pairs.folder.resolve().name, scale, PROTOCOL, tuple(rows), tuple(failures))


def bicubic(scale: int) -> Upscale:
    """The baseline of every table: MATLAB's bicubic `imresize` of 8-bit values, rounded after each pass."""
    return lambda low_res: from_8_bits(resize(to_8_bits(low_res), scale=float(scale)))


def _row(upscale: Upscale, pair: Pair, scale: int) -> Row:
    with torch.no_grad():
        upscaled = upscale(pair.low_res).cpu()
    if upscaled.shape != pair.high_res.shape:
        raise ShapeError(
            f"expected an upscaled image {tuple(pair.high_res.shape)} at scale {scale}, got {tuple(upscaled.shape)}; "
            "give the scale that the model was made for"
        )
    metrics = PROTOCOLS[PROTOCOL]
    height, width = pair.high_res.shape[-2:]
    return Row(
        name=pair.name,
        size=(height, width),
        psnr=metrics.psnr(upscaled, pair.high_res, border=scale).item(),
        ssim=metrics.ssim(upscaled, pair.high_res, border=scale).item(),
    )


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
