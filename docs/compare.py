"""The picture at the top of the README: parts of the example photo, enlarged four times by bicubic and by nlsr.

python docs/compare.py
"""

from pathlib import Path

import torch

import nlsr
from nlsr.images import Picture, resize

PARTS = [(70, 110), (180, 160)]
"""Top and left of each part, in pixels of the photo."""
HEIGHT, WIDTH = 80, 110


def main() -> None:
    root = Path(__file__).parents[1]
    photo = nlsr.read(root / "examples" / "cat.png").pixels
    enlarged = nlsr.Upscaler("lcoan-light-x4")(photo)
    bicubic = resize(photo, scale=4).clamp(0, 1)
    gap = torch.ones(1, 3, 4 * HEIGHT, 8)
    rows = [torch.cat((part(bicubic, *place), gap, part(enlarged, *place)), dim=3) for place in PARTS]
    rows.insert(1, torch.ones(1, 3, 8, rows[0].shape[3]))
    nlsr.write(root / "docs" / "cat.jpg", Picture(torch.cat(rows, dim=2)), overwrite=True)


def part(image: torch.Tensor, top: int, left: int) -> torch.Tensor:
    return image[:, :, 4 * top : 4 * (top + HEIGHT), 4 * left : 4 * (left + WIDTH)]


if __name__ == "__main__":
    main()
