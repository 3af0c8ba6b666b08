"""Images and their low-res versions, mapped from one file."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor


class Pairs:
    """High-res images, each with its low-res version, as uint8 tensors mapped from one file."""

    def __init__(self, path: Path, shapes: list[tuple[int, int]], scale: int) -> None:
        self.path, self.shapes, self.scale = path, shapes, scale
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

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process maps the file itself; the images are not sent."""
        return Pairs, (self.path, self.shapes, self.scale)
