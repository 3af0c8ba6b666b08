"""What Python programs hold pictures in - tensors, numpy arrays, PIL images - as pictures, and results back as those.

Knows nothing of networks.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image
from torch import Tensor

from nlsr.errors import ShapeError
from nlsr.images import Header, Picture, as_float, read

Back = Callable[[Picture], Any]
"""From an upscaled picture to the kind of thing that came in."""


def as_picture(image: Any, *, check: Callable[[Header], object] | None = None) -> tuple[Picture, Back]:
    """A picture of what a program holds, and the way back.

    Args:
        check: of a file, called before its pixels are read.
    Raises: ShapeError, in one line, for other shapes, dtypes and kinds; ImageError for a file that cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        picture = read(image, check=check)
        return picture, lambda larger: as_float(larger.pixels)
    if isinstance(image, Picture):
        return image, lambda larger: larger
    if isinstance(image, Tensor):
        return _from_tensor(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Image.Image):
        return _from_pil(image)
    raise ShapeError(
        f"expected a path, a PIL image, a numpy array, a tensor or a Picture, got {type(image).__name__}; convert it"
    )


def _check_range(samples: Tensor) -> None:
    """Raises: ShapeError for 8-bit values in floating point, of which all but black would become white."""
    if samples.is_floating_point() and (largest := float(samples.max())) > _MOST:
        raise ShapeError(f"expected floating-point values in [0, 1], got {largest:g}; divide 8-bit values by 255")


_MOST = 2.0
"""What filters overshoot by is clipped."""


def _from_tensor(image: Shaped[Tensor, "*b 3 h w"]) -> tuple[Picture, Back]:
    shape = tuple(image.shape)
    if len(shape) not in (3, 4) or shape[-3] != 3 or (len(shape) == 4 and shape[0] != 1) or 0 in shape:
        raise ShapeError(f"expected an image (1, 3, height, width) or (3, height, width), got {shape}")
    _check_range(image)
    picture = Picture(image.detach().reshape(1, *shape[-3:]), depth=_depth(image.dtype))
    return picture, lambda larger: larger.pixels.to(image.device, image.dtype).reshape(
        *shape[:-2], *larger.pixels.shape[2:]
    )


def _from_array(array: np.ndarray) -> tuple[Picture, Back]:
    channels = 1 if array.ndim == 2 else array.shape[-1]
    if array.ndim not in (2, 3) or channels not in ((1,) if array.ndim == 2 else (1, 3, 4)) or 0 in array.shape:
        raise ShapeError(
            f"expected an array (height, width), (height, width, 3) or (height, width, 4), got {array.shape}"
        )
    try:  # torch takes native, contiguous and writable memory
        native = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
        samples = torch.from_numpy(native).reshape(*array.shape[:2], channels)
    except TypeError:
        raise ShapeError(f"expected uint8, uint16 or floating-point values, got {array.dtype}; convert them") from None
    _check_range(samples)
    samples = samples.permute(2, 0, 1)[None]
    grey = channels == 1
    picture = Picture(
        samples.expand(-1, 3, -1, -1) if grey else samples[:, :3],
        alpha=samples[:, 3:] if channels == 4 else None,
        depth=_depth(samples.dtype),
        grey=grey,
    )

    def back(larger: Picture) -> np.ndarray:
        result = larger.pixels[0, :1] if grey else larger.pixels[0]
        if larger.alpha is not None:
            result = torch.cat((result, larger.alpha[0]))
        rows = result.permute(1, 2, 0).numpy().astype(array.dtype, copy=False)
        return np.ascontiguousarray(rows).reshape(*rows.shape[:2], *array.shape[2:])

    return picture, back


_COLOURS_KEPT = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX")
"""Modes whose channels, or those of whose palette, are those of the result, and so is what their profile says."""


def _from_pil(image: Image.Image) -> tuple[Picture, Back]:
    if image.mode == "I":
        raise ShapeError("expected a PIL image of 8 or 16 bits or mode F, got mode I; convert it to I;16")
    told: tuple[str | tuple[int, int], ...] = ("icc_profile", "exif", "xmp")
    info = {name: image.info[name] for name in told if name in image.info}
    if image.mode != "F" and not image.mode.startswith("I;16"):
        if image.mode not in _COLOURS_KEPT:
            info.pop("icc_profile", None)  # it described other channels
        grey = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
        mode = grey + "A" * image.has_transparency_data
        if mode != image.mode or "transparency" in image.info:
            image = image.convert(mode)
    array = np.asarray(image)
    grey_with_alpha = image.mode == "LA"
    if grey_with_alpha:
        array = array[:, :, [0, 0, 0, 1]]
    picture, back = _from_array(array)

    def as_pil(larger: Picture) -> Image.Image:
        values = back(larger)
        if grey_with_alpha:
            values = np.ascontiguousarray(values[:, :, [0, 3]])
        result = Image.fromarray(values)
        result.info = info
        return result

    return (picture if not grey_with_alpha else Picture(picture.pixels, picture.alpha, picture.depth, True)), as_pil


def _depth(dtype: torch.dtype) -> int:
    if dtype.is_floating_point:
        return 32
    if dtype not in (torch.uint8, torch.uint16):
        raise ShapeError(f"expected uint8, uint16 or floating-point values, got {dtype}; convert them")
    return 8 if dtype == torch.uint8 else 16
