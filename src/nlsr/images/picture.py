"""What an image file holds, as the rest of the package sees it. Knows nothing of files and formats."""

from dataclasses import dataclass, replace

from jaxtyping import Shaped
from torch import Tensor


@dataclass(frozen=True)
class Picture:
    """An upright image and what its file said beside the pixels.

    Args:
        pixels: (1, 3, height, width) RGB, floating point in [0, 1], equal channels where the file is grey; or, for
            results too large to hold in float, uint8 or uint16. An integer tensor is written with its own depth.
        alpha: (1, 1, height, width), 0 is transparent; in [0, 1] or integer. The colours are not multiplied by it.
        depth: bits per sample of the file: 8, 16 for all up to 16, or 32 for floating point.
        grey: the file was greyscale; it is written as such again where the format can.
        profile: ICC profile of the pixels. None is usually meant as sRGB.
        exif: a TIFF structure without orientation, pixel sizes and thumbnail. xmp: an XML packet, likewise.
        notes: what was changed on reading and a user may want to know.
    """

    pixels: Shaped[Tensor, "1 3 h w"]
    alpha: Shaped[Tensor, "1 1 h w"] | None = None
    depth: int = 8
    grey: bool = False
    profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    notes: tuple[str, ...] = ()


def without_metadata(picture: Picture) -> Picture:
    """The picture without EXIF and XMP: no place, time, camera or name is left.

    The colour profile stays, because it belongs to the pixels: without it their colours would be others.
    """
    return replace(picture, exif=None, xmp=None)
