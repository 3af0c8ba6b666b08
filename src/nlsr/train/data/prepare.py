"""From folders of images to pairs: decoded once, kept in a cache."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from nlsr.errors import ImageError, RecipeError
from nlsr.images import ENDINGS, read, resize
from nlsr.train.data.pairs import Pairs

Report = Callable[[int, int], None]
"""Called with the number of images done and the number of all."""


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
