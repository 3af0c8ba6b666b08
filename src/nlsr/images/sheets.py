"""Sheets of pictures beside each other, with words below them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nlsr.images.samples import to_8_bits

PANEL = 288
"""Side of a panel."""
GAP, LINE = 12, 22
"""Pixels between panels, and of a line of words."""
_INK, _PAPER = (25, 25, 25), (250, 250, 248)


def blank(columns: int, height: int) -> Image.Image:
    """A sheet for so many panels beside each other."""
    return Image.new("RGB", (GAP + columns * (PANEL + GAP), height), _PAPER)


def put_row(sheet: Image.Image, top: int, panels: Sequence[tuple[str, Image.Image]]) -> None:
    """Panels from left to right, each in the middle of its square, with its words below."""
    for column, (label, panel) in enumerate(panels):
        left = GAP + column * (PANEL + GAP)
        sheet.paste(panel, (left + (PANEL - panel.width) // 2, top + (PANEL - panel.height) // 2))
        write_text(sheet, (left, top + PANEL + 3), label, size=14)


def write_text(sheet: Image.Image, place: tuple[int, int], text: str, *, size: int) -> None:
    ImageDraw.Draw(sheet).text(place, text, fill=_INK, font=ImageFont.load_default(size))


def enlarged(image: Float[Tensor, "1 3 h w"]) -> Image.Image:
    """To a panel, without blur, as pixels are what is to be seen."""
    picture = as_image(image)
    zoom = PANEL / max(picture.size)
    return picture.resize([max(1, round(side * zoom)) for side in picture.size], Image.Resampling.NEAREST)


def as_image(image: Float[Tensor, "1 3 h w"]) -> Image.Image:
    """Of values in [0, 1]."""
    return Image.fromarray(np.ascontiguousarray(to_8_bits(image)[0].permute(1, 2, 0).numpy()))
