"""What an image file holds, as the rest of the package sees it. Knows nothing of files and formats."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Shaped
from torch import Tensor

from nlsr.images.alpha import bleed
from nlsr.images.colour_space import ColourSpace
from nlsr.images.samples import as_float


@dataclass(frozen=True)
class Picture:
    """An upright image and what its file said beside the pixels.

    Args:
        pixels: (1, 3, height, width) RGB, floating point in [0, 1], equal channels where the file is grey; or, for
            results too large to hold in float, uint8 or uint16. An integer tensor is written with its own depth.
        alpha: (1, 1, height, width), 0 is transparent; in [0, 1] or integer. The colours are not multiplied by it.
        depth: bits per sample of the file: 8, 16 for all up to 16, or 32 for floating point.
        grey: the file was greyscale; it is written as such again where the format can.
        profile: ICC profile of the pixels. space: what they mean, where the file says it in numbers and not by a
            profile. Where both are None, sRGB is usually meant.
        exif: a TIFF structure without orientation, pixel sizes and thumbnail. xmp: an XML packet, likewise.
        iptc: IPTC-IIM records. resolution: dots per inch, across and down.
        text: keywords and what is said, as in PNG; the comment of a JPEG or GIF has the keyword `Comment`.
        notes: what was changed on reading and a user may want to know.
    """

    pixels: Shaped[Tensor, "1 3 h w"]
    alpha: Shaped[Tensor, "1 1 h w"] | None = None
    depth: int = 8
    grey: bool = False
    profile: bytes | None = None
    space: ColourSpace | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    resolution: tuple[float, float] | None = None
    text: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def without_metadata(picture: Picture) -> Picture:
    """The picture without EXIF, XMP, IPTC, resolution and text: no place, time, camera or name is left.

    What the colours mean stays, because it belongs to the pixels: without it they would be others.
    """
    return replace(picture, exif=None, xmp=None, iptc=None, resolution=None, text=())


def filled(picture: Picture) -> Shaped[Tensor, "1 3 h w"]:
    """The pixels as a network should see them: with the colours of visible ones wherever they are transparent.

    Args:
        picture: floating-point pixels and alpha.
    """
    return picture.pixels if picture.alpha is None else bleed(picture.pixels, picture.alpha)


def flattened(picture: Picture, background: tuple[float, float, float]) -> Picture:
    """The picture on a background, without alpha, as viewers show it: encoded values are mixed.

    Args:
        background: red, green and blue in [0, 1], in the picture's own RGB.
    """
    if picture.alpha is None:
        return picture
    grey = picture.grey and len(set(background)) == 1
    pixels, alpha = (as_float(samples) for samples in (picture.pixels, picture.alpha))
    colour = torch.tensor(background[:1] if grey else background).view(1, -1, 1, 1)
    mixed = torch.lerp(colour, pixels[:, :1] if grey else pixels, alpha)
    return replace(picture, pixels=mixed.expand_as(picture.pixels), alpha=None, grey=grey)
