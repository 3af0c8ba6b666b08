"""A folder of results: tables, the worst images, what lets an interrupted run continue, and times in their own file.

All files but `timing.json` are equal for equal runs.
"""

import hashlib
import io
import json
import os
import re
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from nlsr.errors import ImageError, UsageError
from nlsr.evaluate.datasets import PairFolder
from nlsr.evaluate.evaluation import Row, badness, bicubic, plain_scores, scores_from_plain
from nlsr.evaluate.models import Model
from nlsr.evaluate.protocols import PAPERS, PROTOCOLS, WORDS
from nlsr.evaluate.tables import EvaluatedModel, as_csv, report
from nlsr.evaluate.worst import Example, render
from nlsr.files import replacing, sha256
from nlsr.images import from_8_bits, to_8_bits

NUM_WORST = 3

RECORDS, TIMING = "records.jsonl", "timing.json"

_SOURCE = "nlsr-source"
"""The text of a sheet that says what it shows, so that it need not be drawn again."""


class Output:
    """Where a run of `nlsr evaluate` keeps what it finds."""

    def __init__(
        self, folder: Path, *, peak_memory: tuple[Callable[[], object], Callable[[], int]] | None = None
    ) -> None:
        """
        Args:
            folder: made if it is not there. What an earlier run left in it is used again.
            peak_memory: what starts a new peak, and what gives the bytes of it. Without, times only.
        Raises: UsageError if the folder cannot be made or written to.
        """
        self.folder = folder
        self.peak_memory = peak_memory
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._records = _read_records(folder / RECORDS)
            self._timing: dict[str, dict[str, Any]] = _read_timing(folder / TIMING)
        except OSError as error:
            raise UsageError(f"{folder}: {error.strerror}; name a folder that can be written to") from error

    def session(self, model: Model, data: Path) -> "Session":
        """What keeps the rows of one model on one data set."""
        return Session(self, model, data)

    def recorded(self, key: str) -> Row | None:
        """The row that was kept under a key."""
        return self._records.get(key)

    def keep(self, key: str, model: Model, row: Row) -> None:
        """Write a row at once, so that nothing is lost when the run is interrupted."""
        record = {
            "key": key,
            "model": model.name,
            "scale": model.scale,
            "name": row.name,
            "size": list(row.size),
            "scores": plain_scores(row.scores),
        }
        self._records[key] = row
        self._written(RECORDS, lambda path: _append_line(path, json.dumps(record)))

    def keep_time(self, model: Model, data: Path, name: str, spent: dict[str, float]) -> None:
        self._timing.setdefault(f"{model.name} x{model.scale} on {data}", {})[name] = spent
        self._save(TIMING, json.dumps(self._timing, indent=1).encode() + b"\n")

    def write(self, results: list[EvaluatedModel]) -> None:
        """The tables: results.md, results.csv and results.json."""
        self._save("results.md", report(results).encode())
        self._save("results.csv", as_csv(results).encode())
        plain = {"nlsr": version("nlsr"), "results": [result.as_dict() for result in results]}
        self._save("results.json", (json.dumps(plain, indent=1) + "\n").encode())

    def write_picture(self, name: str, content: bytes) -> None:
        self._save(name, content)

    def _save(self, name: str, content: bytes) -> None:
        self._written(name, lambda path: _replace(path, content))

    def _written(self, name: str, write: Callable[[Path], None]) -> None:
        try:
            write(self.folder / name)
        except OSError as error:
            raise UsageError(f"{self.folder}: {name} cannot be written ({error.strerror})") from error


class Session:
    """One model on one data set: remembers rows, times what is computed, and holds the worst results for the sheet."""

    def __init__(self, output: Output, model: Model, data: Path) -> None:
        self.output, self.model, self.data = output, model, data
        self._spent: dict[str, float] = {}
        self._last: Tensor | None = None
        self._worst: dict[str, tuple[float, Tensor]] = {}

    def upscale(self, low_res: Tensor) -> Tensor:
        """As the model does, with an eye on the clock."""
        if self.output.peak_memory:
            self.output.peak_memory[0]()
        started = time.perf_counter()
        upscaled = self.model.upscale(low_res).cpu()
        self._spent = {"seconds": time.perf_counter() - started}
        if self.output.peak_memory:
            self._spent["peak_bytes"] = self.output.peak_memory[1]()
        self._last = upscaled
        return upscaled

    def remember(self, files: list[Path], compute: Callable[[], Row]) -> Row:
        """The row of an image: from the folder if files and model are those of then, else computed and kept."""
        key = _key(self.model, files)
        row = self.output.recorded(key)
        if row is None:
            row = compute()
            self.output.keep(key, self.model, row)
            self.output.keep_time(self.model, self.data, row.name, self._spent)
            self._hold(row)
        elif row.name != files[0].name:  # the same image under another name
            row = Row(files[0].name, row.size, row.scores)
        return row

    def write_worst(self, result: EvaluatedModel, pairs: PairFolder) -> str:
        """Draw the worst images, unless the file there shows them already. Returns the file's name."""
        rows = result.evaluation.worst(NUM_WORST)
        indices = [next(i for i, path in enumerate(pairs.paths) if path.name == row.name) for row in rows]
        keys = [_key(self.model, pairs.files(index)) for index in indices]
        source = hashlib.sha256(repr((result.title, keys)).encode()).hexdigest()
        name = _file_name(result)
        if _source_of(self.output.folder / name) == source:
            return name
        examples = [self._example(row, pairs, index) for row, index in zip(rows, indices, strict=True)]
        count = len(result.evaluation.rows)
        title = (
            f"{_short(self.model.name)} on {result.evaluation.data}, x{self.model.scale}: the {len(rows)} of {count} "
            f"images with the lowest PSNR, protocol {PAPERS}"
        )
        self.output.write_picture(name, _png(render(title, examples, scale=self.model.scale), source))
        return name

    def _hold(self, row: Row) -> None:
        assert self._last is not None
        self._worst[row.name] = (badness(row), to_8_bits(self._last.nan_to_num()))
        if len(self._worst) > NUM_WORST:
            # The last of equals goes, as in the order of the rows.
            del self._worst[max(reversed(self._worst), key=lambda name: self._worst[name][0])]

    def _example(self, row: Row, pairs: PairFolder, index: int) -> Example:
        pair, scale = pairs[index], self.model.scale
        if row.name in self._worst:
            upscaled = from_8_bits(self._worst[row.name][1])
        else:
            with torch.no_grad():
                upscaled = from_8_bits(to_8_bits(self.model.upscale(pair.low_res).cpu().nan_to_num()))
        score = row.scores[PAPERS]
        baseline = PROTOCOLS[PAPERS].measure(bicubic(scale)(pair.low_res), pair.high_res, border=scale)
        return Example(
            caption=f"{row.name}, {row.size[1]}x{row.size[0]}",
            bicubic_caption=f"bicubic {baseline.psnr:.2f} dB, {baseline.ssim:.4f}",
            result_caption=f"result {score.psnr:.2f} dB, {score.ssim:.4f}",
            low_res=pair.low_res,
            upscaled=upscaled,
            high_res=pair.high_res,
        )


def _key(model: Model, files: list[Path]) -> str:
    """What decides about a row: the model and how it is applied, protocols, versions, and the images byte by byte."""
    try:
        images = [sha256(path) for path in files]
    except OSError as error:
        raise ImageError(f"{error.filename}: cannot be read ({error.strerror})") from error
    decides = [model.identity, model.scale, WORDS, version("nlsr"), torch.__version__, images]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _read_records(path: Path) -> dict[str, Row]:
    """By key. A line that a killed run left unfinished is dropped: its image is computed again."""
    rows = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
                height, width = record["size"]
                rows[record["key"]] = Row(record["name"], (height, width), scores_from_plain(record["scores"]))
            except (ValueError, KeyError, TypeError):
                continue
    return rows


def _read_timing(path: Path) -> dict[str, dict[str, Any]]:
    try:
        timing = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return timing if isinstance(timing, dict) else {}


def _append_line(path: Path, line: str) -> None:
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode() + b"\n")


def _replace(path: Path, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)


def _file_name(result: EvaluatedModel) -> str:
    name = _short(result.model.name)
    if name != result.model.name:  # files in several folders may be called alike
        name += "-" + str(result.model.identity["model"])[:8]
    plain = re.sub(r"[^\w.-]+", "_", f"{name}-{result.evaluation.data}-x{result.evaluation.scale}")
    return f"worst-{plain}.png"


def _short(name: str) -> str:
    """The name of a model, or what a weight file is called without folder and ending."""
    path = Path(name)
    return path.stem if path.suffix or len(path.parts) > 1 else name


def _png(sheet: Image.Image, source: str) -> bytes:
    says = PngInfo()
    says.add_text(_SOURCE, source)
    content = io.BytesIO()
    sheet.save(content, "PNG", pnginfo=says, optimize=True)
    return content.getvalue()


def _source_of(path: Path) -> str | None:
    """What a sheet that is there already was made of."""
    try:
        with Image.open(path) as sheet:
            return sheet.info.get(_SOURCE)
    except (OSError, SyntaxError, ValueError):  # none, or a damaged one: it is drawn anew
        return None
