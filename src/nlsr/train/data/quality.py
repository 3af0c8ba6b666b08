"""How strongly a JPEG file was compressed, by the tables in its header. Reads no pixels."""

import io
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from nlsr.images.formats.quiet import quiet


def jpeg_quality(path: Path) -> int | None:
    """The quality, from 1 to 100, at which libjpeg would have made the file's luma table; None if it is no JPEG.

    Other encoders have tables of their own: for them it is the quality of the table most like theirs.
    """
    try:
        with quiet, Image.open(path) as image:
            tables = getattr(image, "quantization", None)
    except Exception:  # whether a file is a picture is decided by reading it
        return None
    if not tables or image.format not in ("JPEG", "MPO"):
        return None
    distance = np.abs(_tables() - np.array(tables[min(tables)], dtype=float)).sum(1)
    return int(distance.argmin()) + 1


@cache
def _tables() -> np.ndarray:
    """libjpeg's luma tables (100, 64), from the library itself."""
    tables = []
    for quality in range(1, 101):
        file = io.BytesIO()
        Image.new("L", (8, 8)).save(file, "JPEG", quality=quality)
        with Image.open(file) as image:
            tables.append(image.quantization[0])  # type: ignore[attr-defined]
    return np.array(tables, dtype=float)
