"""The worst images of a data set as one picture to look at. Knows nothing of how they were chosen and upscaled."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from nlsr.evaluate.datasets import to_8_bits
from nlsr.evaluate.evaluation import bicubic

AMPLIFIED = 4
"""The error panel is white from 64 of 255 levels up."""

REGION = 96
"""Side of what is shown of an image, in its own pixels; a multiple of the scales 2, 3 and 4."""

PANEL = 288
"""Side of a panel: the region three times enlarged."""

_GAP, _LINE, _INK, _PAPER, _MARK = 12, 22, (25, 25, 25), (250, 250, 248), (235, 60, 40)


@dataclass(frozen=True, eq=False)
class Example:
    """One image of the sheet: RGB in [0, 1]; what is said of the image, and of its bicubic version and result."""

    caption: str
    bicubic_caption: str
    result_caption: str
    low_res: Float[Tensor, "1 3 h w"]
    upscaled: Float[Tensor, "1 3 height width"]
    high_res: Float[Tensor, "1 3 height width"]


def draw(title: str, examples: list[Example], *, scale: int) -> Image.Image:
    """A row per image: the whole, then the region of its largest error: low-res, bicubic, result, truth, error."""
    row_height = _LINE + PANEL + _LINE + _GAP
    width = _GAP + 6 * (PANEL + _GAP)
    sheet = Image.new("RGB", (width, _GAP + 2 * _LINE + len(examples) * row_height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    write_text(pen, (_GAP, _GAP), title, size=18)
    for number, example in enumerate(examples):
        top = _GAP + 2 * _LINE + number * row_height
        write_text(pen, (_GAP, top), example.caption, size=15)
        for column, (label, panel) in enumerate(_panels(example, scale)):
            left = _GAP + column * (PANEL + _GAP)
            x, y = left + (PANEL - panel.width) // 2, top + _LINE + (PANEL - panel.height) // 2
            sheet.paste(panel, (x, y))
            write_text(pen, (left, top + _LINE + PANEL + 3), label, size=14)
    return sheet


def _panels(example: Example, scale: int) -> list[tuple[str, Image.Image]]:
    upscaled, high_res = (image.nan_to_num().clamp(0, 1) for image in (example.upscaled, example.high_res))
    top, left, height, width = worst_region(upscaled, high_res, scale)
    part = (..., slice(top, top + height), slice(left, left + width))
    low_part = (
        ...,
        slice(top // scale, (top + height) // scale),
        slice(left // scale, (left + width) // scale),
    )
    error = (upscaled - high_res).abs().mean(1, keepdim=True).mul(AMPLIFIED).expand_as(high_res)
    return [
        ("the whole, and where", _whole(high_res, (left, top, left + width, top + height))),
        ("low-res", enlarged(example.low_res[low_part])),
        (example.bicubic_caption, enlarged(bicubic(scale)(example.low_res)[part])),
        (example.result_caption, enlarged(upscaled[part])),
        ("truth", enlarged(high_res[part])),
        (f"error of the result, {AMPLIFIED} times", enlarged(error[part])),
    ]


def worst_region(upscaled: Tensor, high_res: Tensor, scale: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of where the squared error is largest, on the grid of low-res pixels."""
    height, width = (min(REGION - REGION % scale, side) for side in high_res.shape[-2:])
    error = (upscaled - high_res).square().mean(1, keepdim=True).double()
    mean = F.avg_pool2d(error, (height, width), stride=scale)
    row, column = divmod(int(mean.flatten().argmax()), mean.shape[-1])
    return row * scale, column * scale, height, width


def _whole(image: Tensor, box: tuple[int, int, int, int]) -> Image.Image:
    picture = _as_image(image)
    shrink = PANEL / max(picture.size)
    picture = picture.resize([max(1, round(side * shrink)) for side in picture.size], Image.Resampling.BICUBIC)
    left, top, right, bottom = (round(edge * shrink) for edge in box)
    ImageDraw.Draw(picture).rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=_MARK, width=2)
    return picture


def enlarged(image: Tensor) -> Image.Image:
    """Without blur, as pixels are what is to be seen."""
    picture = _as_image(image)
    zoom = PANEL / max(picture.size)
    return picture.resize([max(1, round(side * zoom)) for side in picture.size], Image.Resampling.NEAREST)


def _as_image(image: Tensor) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(to_8_bits(image)[0].permute(1, 2, 0).numpy()))


def write_text(pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, *, size: int) -> None:
    pen.text(place, text, fill=_INK, font=ImageFont.load_default(size))
