"""Samples of an image that Pillow has loaded. Knows no format but by name."""

import numpy as np
from PIL import Image

from nlsr.images.formats.decoded import Refusal


def samples_of(image: Image.Image, format: str) -> np.ndarray:
    """(height, width, channels) of 8 bits: grey or RGB, alpha last where there is any.

    Raises: Refusal for other kinds of pixels.
    """
    mode = _mode(image)
    if mode is None:
        raise Refusal(f"expected grey, RGB, CMYK or palette pixels, got {image.mode} in {format}; convert it to RGB")
    upright = image if image.mode == mode else image.convert(mode)
    return np.asarray(upright).reshape(image.height, image.width, -1)


def _mode(image: Image.Image) -> str | None:
    """The one of L, LA, RGB and RGBA that holds what the image holds."""
    transparent = image.has_transparency_data
    if image.mode in ("1", "L", "LA", "La") or (image.mode in ("P", "PA") and _has_grey_palette(image)):
        return "LA" if transparent else "L"
    if image.mode in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
        return "RGBA" if transparent else "RGB"
    return None


def _has_grey_palette(image: Image.Image) -> bool:
    red, green, blue = np.reshape(image.getpalette("RGB") or [], (-1, 3)).T
    return bool((red == green).all() and (green == blue).all())
