"""What a training leaves to look at: a curve as a table and as a picture, sample pictures, TensorBoard's log."""

import csv
import io
import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nlsr.evaluate import Pair, bicubic, psnr
from nlsr.evaluate.worst import worst_region
from nlsr.images import Picture, write
from nlsr.images.sheets import GAP, LINE, PANEL, blank, enlarged, put_row
from nlsr.weights.checkpoint import write_atomically

LOG_EVERY = 50
"""Steps between two points of TensorBoard's curves."""


def add_to_curve(curve: Path, row: dict[str, str]) -> None:
    """Add a row, after dropping those of its and later steps, which a resumed run writes again.

    Raises: CheckpointError if it cannot be written; the table is then as it was.
    """
    rows = [old for old in read_curve(curve) if int(old["step"]) < int(row["step"])] if curve.exists() else []
    text = io.StringIO()
    table = csv.DictWriter(text, list(row), extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows([*rows, row])
    write_atomically(curve, text.getvalue().encode())


def read_curve(curve: Path) -> list[dict[str, str]]:
    """The rows of a curve, values as text."""
    with curve.open(newline="") as file:
        return list(csv.DictReader(file))


def plot_curve(folder: Path, *, title: str) -> Path | None:
    """`curve.png` of the table beside it: PSNR and loss by step; None without matplotlib.

    Raises: CheckpointError if it cannot be written.
    """
    if find_spec("matplotlib") is None:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = read_curve(folder / "curve.csv")
    steps = [int(row["step"]) for row in rows]
    figure = Figure(figsize=(8, 6), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for index, (name, label) in enumerate({"psnr": "PSNR of luma, dB", "loss": "loss of training"}.items()):
        axes = figure.add_subplot(2, 1, index + 1)
        axes.plot(steps, [float(row[name]) for row in rows], marker="." if len(rows) < 50 else "", color="#1f6fb4")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    axes.set_xlabel("step")
    figure.suptitle(title, parse_math=False)
    content = io.BytesIO()
    canvas.print_png(content)
    write_atomically(folder / "curve.png", content.getbuffer())
    return folder / "curve.png"


def sample_sheet(pair: Pair, upscaled: Tensor, *, scale: int, caption: str) -> Tensor:
    """Bicubic, network and truth of the region in which bicubic is worst, side by side: RGB in [0, 1]."""
    plain = bicubic(scale)(pair.low_res)
    top, left, height, width = worst_region(plain, pair.high_res, scale)
    part = (..., slice(top, top + height), slice(left, left + width))
    panels = []
    for name, image in ((f"bicubic x{scale}", plain), (caption, upscaled), ("truth", pair.high_res)):
        cut = image[part]
        score = "" if image is pair.high_res else f" {psnr(cut, pair.high_res[part], border=0).item():.2f} dB"
        panels.append((name + score, enlarged(cut)))
    sheet = blank(3, GAP + PANEL + LINE + GAP)
    put_row(sheet, GAP, panels)
    return torch.from_numpy(np.asarray(sheet).copy()).permute(2, 0, 1)[None].float() / 255


def write_sample(path: Path, sample: Tensor) -> None:
    """Raises: ImageError if it cannot be written."""
    path.parent.mkdir(exist_ok=True)
    write(path, Picture(sample), overwrite=True)


class Log:
    """TensorBoard's log of a run, if TensorBoard is installed; nothing otherwise, nor once it cannot be written."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """What an earlier run logged after `first_step` is dropped."""
        self._writer: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1 if first_step else None)

    def numbers(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._try(lambda writer, name=name, value=value: writer.add_scalar(name, value, step))

    def picture(self, step: int, sample: Tensor) -> None:
        self._try(lambda writer: writer.add_image("sample", sample[0], step))

    def close(self) -> None:
        self._try(lambda writer: writer.close())

    def _try(self, write: Callable[[Any], None]) -> None:
        """A log is no reason to end a training."""
        if self._writer is None:
            return
        try:
            write(self._writer)
        except OSError as error:
            self._writer = None
            logger = logging.getLogger(__name__)
            logger.warning("TensorBoard's log cannot be written (%s), it ends here", error.strerror)
