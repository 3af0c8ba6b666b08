"""The pictures of the README: parts of the example photo, enlarged four times, side by side.

    python docs/compare.py

`cat.jpg`: bicubic and nlsr. `photo.jpg`: bicubic, the default weights and those for ordinary photos, of the same photo
at half size with noise of 4 grey levels and JPEG at quality 75.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import nlsr
from nlsr.images import Picture, resize
from nlsr.train.data.degradation.operations import add_noise, compress, to_8_bits

DOCS = Path(__file__).parent
NOISE = 4.0
QUALITY = 75
GAP = 8


def main() -> None:
    photo = nlsr.read(DOCS.parent / "examples" / "cat.png").pixels
    write_comparison(DOCS / "cat.jpg", photo, ["lcoan-light-x4"], parts=[(70, 110), (180, 160)], size=(80, 110))
    models = ["lcoan-light-x4", "lcoan-light-photo-x4"]
    write_comparison(DOCS / "photo.jpg", as_taken(photo), models, parts=[(28, 55), (88, 85)], size=(45, 70))


def as_taken(photo: Tensor) -> Tensor:
    """Half as large, noisy and compressed."""
    small = 255 * resize(photo, scale=0.5).clamp(0, 1)[0]
    noisy = add_noise(small, NOISE, np.random.default_rng(0), grey=False)
    return compress(to_8_bits(noisy), QUALITY, full_colour=False)[None].float() / 255


def write_comparison(
    path: Path, photo: Tensor, models: list[str], *, parts: list[tuple[int, int]], size: tuple[int, int]
) -> None:
    """A row for each part, a column for bicubic and for each model.

    Args:
        parts: top and left of each part, in pixels of the photo.
        size: height and width of a part.
    """
    enlarged = [resize(photo, scale=4).clamp(0, 1), *(nlsr.Upscaler(model)(photo) for model in models)]
    height, width = size
    rows = []
    for top, left in parts:
        cuts = [image[:, :, 4 * top : 4 * (top + height), 4 * left : 4 * (left + width)] for image in enlarged]
        rows.append(apart(cuts, dim=3))
    nlsr.write(path, Picture(apart(rows, dim=2)), overwrite=True)


def apart(images: list[Tensor], *, dim: int) -> Tensor:
    """Beside or below each other, with white between."""
    shape = list(images[0].shape)
    shape[dim] = GAP
    gap = torch.ones(shape)
    return torch.cat([piece for image in images for piece in (gap, image)][1:], dim=dim)


if __name__ == "__main__":
    main()
