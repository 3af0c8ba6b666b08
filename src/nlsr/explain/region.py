"""Rectangles of an image."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Region:
    """Where a part of an image lies, in its pixels."""

    left: int
    top: int
    width: int
    height: int

    def of(self, image: Tensor) -> Tensor:
        """The part of an image or map (..., h, w)."""
        return image[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def inside(self, x: int, y: int) -> tuple[int, int]:
        """A point of the image as a point of the part."""
        return x - self.left, y - self.top

    @property
    def area(self) -> int:
        return self.width * self.height


def around(x: int, y: int, side: int, *, width: int, height: int) -> Region:
    """The square around a point, shifted to lie inside an image; of a narrower image, its whole width or height."""
    across, down = min(side, width), min(side, height)
    left = min(max(0, x - across // 2), width - across)
    top = min(max(0, y - down // 2), height - down)
    return Region(left, top, across, down)
