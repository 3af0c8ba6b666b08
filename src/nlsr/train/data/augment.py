"""Changes that make another correct pair of a pair. Knows nothing of files."""

from torch import Tensor


def flip_and_turn(image: Tensor, which: int) -> Tensor:
    """One of the eight symmetries of the square, on the last two axes; 0 is the identity."""
    if which & 1:
        image = image.flip(-2)
    if which & 2:
        image = image.flip(-1)
    return image.transpose(-2, -1) if which & 4 else image
