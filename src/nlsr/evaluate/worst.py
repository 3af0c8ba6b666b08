"""The worst images of a data set as one picture to look at. Knows nothing of how they were chosen and upscaled."""

from dataclasses import dataclass

from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from nlsr.evaluate.evaluation import bicubic
from nlsr.images.sheets import GAP, LINE, PANEL, as_image, blank, enlarged, put_row, write_text

AMPLIFIED = 4
"""The error panel is white from 64 of 255 levels up."""

REGION = 96
"""Side of what is shown of an image, in its own pixels; a multiple of the scales 2, 3 and 4. Three times enlarged it is
a panel."""

_MARK = (235, 60, 40)


@dataclass(frozen=True, eq=False)
class Example:
    """One image of the sheet: RGB in [0, 1]; what is said of the image, and of its bicubic version and result."""

    caption: str
    bicubic_caption: str
    result_caption: str
    low_res: Float[Tensor, "1 3 h w"]
    upscaled: Float[Tensor, "1 3 height width"]
    high_res: Float[Tensor, "1 3 height width"]


def render(title: str, examples: list[Example], *, scale: int) -> Image.Image:
    """A row per image: the whole, then the region of its largest error: low-res, bicubic, result, truth, error."""
    row_height = LINE + PANEL + LINE + GAP
    sheet = blank(6, GAP + 2 * LINE + len(examples) * row_height)
    write_text(sheet, (GAP, GAP), title, size=18)
    for number, example in enumerate(examples):
        top = GAP + 2 * LINE + number * row_height
        write_text(sheet, (GAP, top), example.caption, size=15)
        put_row(sheet, top + LINE, _panels(example, scale))
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
    picture = as_image(image)
    shrink = PANEL / max(picture.size)
    picture = picture.resize([max(1, round(side * shrink)) for side in picture.size], Image.Resampling.BICUBIC)
    left, top, right, bottom = (round(edge * shrink) for edge in box)
    ImageDraw.Draw(picture).rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=_MARK, width=2)
    return picture
