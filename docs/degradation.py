"""The picture in data.md: a part of the example photo, made small by bicubic and by seven draws of the degradation.

python docs/degradation.py
"""

from pathlib import Path

import numpy as np
import torch

import nlsr
from nlsr.images import Picture, resize
from nlsr.train.data import DegradationSection, degrade

SCALE = 4
TOP, LEFT, SIDE = 5, 24, 64
"""The part that is shown, in low-res pixels."""
GAP = 8


def main() -> None:
    root = Path(__file__).parents[1]
    photo = (nlsr.read(root / "examples" / "cat.png").pixels[0] * 255).round().to(torch.uint8)
    height, width = (side // SCALE * SCALE for side in photo.shape[1:])
    photo = photo[:, :height, :width]
    draws = [np.random.default_rng(seed) for seed in range(7)]
    small = [resize(photo, scale=1 / SCALE)]
    small += [degrade(photo, scale=SCALE, settings=DegradationSection(), generator=draw) for draw in draws]
    panels = [shown(image) for image in small]
    sheet = stack([stack(panels[:4], dim=2), stack(panels[4:], dim=2)], dim=1)
    nlsr.write(root / "docs" / "degradation.jpg", Picture(sheet[None].float() / 255), overwrite=True)


def shown(image: torch.Tensor) -> torch.Tensor:
    """The part, each pixel as a square."""
    part = image[:, TOP : TOP + SIDE, LEFT : LEFT + SIDE]
    return part.repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2)


def stack(images: list[torch.Tensor], *, dim: int) -> torch.Tensor:
    """Images beside each other, with white between."""
    shape = list(images[0].shape)
    shape[dim] = GAP
    parts = [part for image in images for part in (torch.full(shape, 255, dtype=torch.uint8), image)]
    return torch.cat(parts[1:], dim)


if __name__ == "__main__":
    main()
