"""A folder of high-res images as pairs: each cropped to a multiple of the scale, and its low-res image made by MATLAB's
bicubic `imresize` on 8-bit values. Knows nothing of networks and metrics.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nlsr.errors import ImageError, ShapeError, UsageError
from nlsr.images import ENDINGS, read, resize

IMAGE_ENDINGS = {*ENDINGS, ".jpe", ".jp2", ".jxl", ".gif", ".ppm", ".pgm", ".pnm", ".heic", ".heif"}
"""What counts as an image in a folder. It goes beyond what can be read, so that nobody misses an image unawares."""


@dataclass(frozen=True, eq=False)
class Pair:
    """One image twice: float32 RGB in [0, 1], every value a multiple of 1/255."""

    name: str
    low_res: Float[Tensor, "1 3 h w"]
    high_res: Float[Tensor, "1 3 height width"]


class PairFolder:
    """The images of one folder, not of its subfolders, in the order of their names; read when asked for.

    Deeper files are rounded to 8 bits first, and grey ones repeated to RGB, as the papers do.
    """

    def __init__(self, folder: str | Path, *, scale: int) -> None:
        """
        Args:
            folder: holds high-res images; hidden files and files that do not end like an image are ignored.
            scale: how many times smaller the low-res images are; a whole number.
        Raises: ImageError if the folder cannot be listed or has no image in it, UsageError if the scale
            is not positive.
        """
        if scale < 1:
            raise UsageError(f"expected a scale of 1 or more, got {scale}")
        self.folder = Path(folder)
        self.scale = scale
        self.paths = _image_paths(self.folder)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Pair:
        """Read one image and make its pair.

        Raises: ImageError if the file cannot be read, ShapeError if it is smaller than the scale.
        """
        path = self.paths[index]
        high_res = modcrop(to_8_bits(read(path).pixels), self.scale)
        low_res = resize(high_res, scale=Fraction(1, self.scale))
        return Pair(path.name, from_8_bits(low_res), from_8_bits(high_res))

    def __iter__(self) -> Iterator[Pair]:
        return (self[index] for index in range(len(self)))


def modcrop(image: Tensor, scale: int) -> Tensor:
    """Crop the last two axes to multiples of the scale; the top-left corner stays. Returns a view.

    Raises: ShapeError if nothing is left.
    """
    height, width = image.shape[-2:]
    if min(height, width) < scale:
        raise ShapeError(f"expected an image of {scale}×{scale} pixels or more at scale {scale}, got {width}×{height}")
    return image[..., : height - height % scale, : width - width % scale]


def to_8_bits(image: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
    """[0, 1], clipped where it exceeds, to 0..255."""
    return image.clamp(0, 1).mul(255).round().to(torch.uint8)


def from_8_bits(image: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """0..255 to float32 in [0, 1]."""
    return image.to(torch.float32).div(255)


def _image_paths(folder: Path) -> list[Path]:
    try:
        entries = list(folder.iterdir())
    except OSError as error:  # missing, a file, or not ours to read
        raise ImageError(f"{folder}: {error.strerror}; expected a folder of high-res images") from error
    paths = sorted(
        path
        for path in entries
        if path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".") and not path.is_dir()
    )
    if not paths:
        raise ImageError(f"{folder}: no image in this folder; expected files such as .png, .jpg or .tif in it")
    return paths
