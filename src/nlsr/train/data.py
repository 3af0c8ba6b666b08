"""Training pairs: images decoded once into a memory-mapped cache, and batches that are a pure function of the step.

Because a batch depends on nothing but seed and step, a resumed run sees exactly what an uninterrupted one sees.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from nlsr.errors import ImageError, RecipeError
from nlsr.images import ENDINGS, read, resize

Report = Callable[[int, int], None]
"""Called with the number of images done and the number of all."""


class Pairs:
    """High-res images, each with its low-res version, as uint8 tensors mapped from one file."""

    def __init__(self, path: Path, shapes: list[tuple[int, int]], scale: int) -> None:
        self.scale = scale
        self.high: list[UInt8[Tensor, "3 _h _w"]] = []
        self.low: list[UInt8[Tensor, "3 _h _w"]] = []
        content = torch.from_numpy(np.memmap(path, dtype=np.uint8, mode="c"))
        start = 0
        for height, width in shapes:
            for images, h, w in ((self.high, height, width), (self.low, height // scale, width // scale)):
                images.append(content[start : start + 3 * h * w].view(3, h, w))
                start += 3 * h * w

    def __len__(self) -> int:
        return len(self.high)


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """The batch of each step: aligned random crops, each in one of eight flips and turns, as float in [0, 1].

    An image is drawn in proportion to its pixels. In a distributed run each rank takes its part of the same batch.
    """

    def __init__(
        self, pairs: Pairs, *, patch_size: int, batch_size: int, seed: int, rank: int = 0, ranks: int = 1
    ) -> None:
        """
        Raises: RecipeError if no image is large enough or the batch cannot be divided by the ranks.
        """
        usable = [i for i, low in enumerate(pairs.low) if min(low.shape[1:]) >= patch_size]
        if not usable:
            raise RecipeError(
                f"no training image holds a patch of {patch_size}x{patch_size} low-res pixels "
                f"({patch_size * pairs.scale} high-res); use a smaller training.patch_size or larger images"
            )
        if batch_size % ranks:
            raise RecipeError(f"training.batch_size: expected a multiple of the {ranks} processes, got {batch_size}")
        self.pairs, self.usable = pairs, usable
        self.patch_size, self.batch_size, self.seed = patch_size, batch_size, seed
        self.mine = slice(rank * batch_size // ranks, (rank + 1) * batch_size // ranks)
        areas = np.array([pairs.low[i].shape[1] * pairs.low[i].shape[2] for i in usable], dtype=np.float64)
        self.chances = areas / areas.sum()

    def __getitem__(self, step: int) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 sh sw"]]:
        draw = np.random.default_rng([self.seed, step])
        images = draw.choice(self.usable, self.batch_size, p=self.chances)
        places, turns = draw.random((self.batch_size, 2)), draw.integers(8, size=self.batch_size)
        crops = [self._crop(int(i), place, int(turn)) for i, place, turn in zip(images, places, turns, strict=True)][
            self.mine
        ]
        low, high = (torch.stack(part).float().div_(255) for part in zip(*crops, strict=True))
        return low, high

    def _crop(self, index: int, place: np.ndarray, turn: int) -> tuple[Tensor, Tensor]:
        low, high = self.pairs.low[index], self.pairs.high[index]
        size, scale = self.patch_size, self.pairs.scale
        top, left = (int(p * (side - size + 1)) for p, side in zip(place, low.shape[1:], strict=True))
        low = low[:, top : top + size, left : left + size]
        high = high[:, top * scale : (top + size) * scale, left * scale : (left + size) * scale]
        return flip_and_turn(low, turn), flip_and_turn(high, turn)


def flip_and_turn(image: Tensor, which: int) -> Tensor:
    """One of the eight symmetries of the square, on the last two axes; 0 is the identity."""
    if which & 1:
        image = image.flip(-2)
    if which & 2:
        image = image.flip(-1)
    return image.transpose(-2, -1) if which & 4 else image


def prepare(
    folders: list[Path], *, scale: int, source_scales: list[float], cache: Path, report: Report | None = None
) -> Pairs:
    """Decode all images of some folders, or take them from the cache if nothing changed.

    Each image is used at each of `source_scales`, cropped to a multiple of the scale; low-res images are made by
    MATLAB-exact bicubic resizing of 8-bit values.

    Raises: RecipeError if a folder is missing or holds no image, ImageError for an unreadable image or a full disk.
    """
    files = [file for folder in folders for file in _images(folder)]
    key = json.dumps(
        [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files] + [scale, source_scales]
    )
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    index, content = cache / f"{name}.json", cache / f"{name}.bin"
    if not index.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            _write(files, scale, source_scales, index, content, report)
        except OSError as error:
            raise ImageError(f"{cache}: the decoded training images cannot be written ({error.strerror})") from error
    return Pairs(content, [tuple(shape) for shape in json.loads(index.read_text())], scale)


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise RecipeError(
            f"{folder}: expected a folder of training images, found none; --data names the folder above it"
        )
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
    if not found:
        raise RecipeError(f"{folder}: expected training images ({', '.join(sorted(ENDINGS))}), found none")
    return found


def _write(
    files: list[Path], scale: int, source_scales: list[float], index: Path, content: Path, report: Report | None
) -> None:
    """The index is written last, so that it exists only beside complete content."""
    shapes: list[tuple[int, int]] = []
    with tempfile.NamedTemporaryFile(dir=content.parent, suffix=".part", delete=False) as out:
        try:
            for done, file in enumerate(files):
                if report:
                    report(done, len(files))
                for high in _sizes(file, source_scales, scale):
                    shapes.append((high.shape[1], high.shape[2]))
                    out.write(high.numpy().tobytes())
                    out.write(resize(high, scale=1 / scale).numpy().tobytes())
            if report:
                report(len(files), len(files))
            out.close()
            os.replace(out.name, content)
        except BaseException:
            os.unlink(out.name)
            raise
    index.with_suffix(".json.part").write_text(json.dumps(shapes))
    os.replace(index.with_suffix(".json.part"), index)


def _sizes(file: Path, source_scales: list[float], scale: int) -> Iterable[UInt8[Tensor, "3 _h _w"]]:
    source = read(file).pixels[0].mul(255).round().to(torch.uint8)
    for source_scale in source_scales:
        high = source if source_scale == 1 else resize(source, scale=source_scale)
        height, width = (side // scale * scale for side in high.shape[1:])
        if height and width:
            yield high[:, :height, :width].contiguous()
