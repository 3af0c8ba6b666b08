"""Changes that make another correct pair of a pair, and the recipe section `[data.augmentation]`. Reads no files.

Source: Yoo et al., "Rethinking Data Augmentation for Image Super-resolution", 2020 (arXiv 2004.00448), for cut_mix,
cut_clean (their CutBlur) and permute_colours.
"""

import numpy as np
from torch import Tensor

from nlsr.train.section import Range, Section, Share

Rectangle = tuple[slice, slice]


class AugmentationSection(Section):
    flips_and_turns: bool = True
    """Each patch in one of the eight symmetries of the square."""
    zoom: Range | None = None
    """Each patch is cut from its image at a random size between these, like [0.5, 1.0], instead of the image's own."""
    permute_colours: Share = 0.0
    """Share of the patches whose red, green and blue change places."""
    cut_mix: Share = 0.0
    """Share of the patches in which a random rectangle comes from another patch."""
    cut_clean: Share = 0.0
    """Share of the degraded patches of which a random rectangle, or the rest, is plain; needs `data.degradation`."""


def flip_and_turn(image: Tensor, which: int) -> Tensor:
    """One of the eight symmetries of the square, on the last two axes; 0 is the identity."""
    if which & 1:
        image = image.flip(-2)
    if which & 2:
        image = image.flip(-1)
    return image.transpose(-2, -1) if which & 4 else image


def random_rectangle(size: int, generator: np.random.Generator) -> Rectangle:
    """Rows and columns of a square: sides from one pixel to the whole, anywhere."""
    sides = generator.integers(1, size, size=2, endpoint=True)
    rows, columns = (
        slice(start, start + side) for side in sides for start in [int(generator.integers(size - side + 1))]
    )
    return rows, columns


def paste(image: Tensor, other: Tensor, rectangle: Rectangle, scale: int = 1) -> Tensor:
    """The image with a rectangle of another one of its shape; `scale` pixels to each unit of the rectangle."""
    rows, columns = (slice(scale * side.start, scale * side.stop) for side in rectangle)
    image = image.clone()
    image[..., rows, columns] = other[..., rows, columns]
    return image
