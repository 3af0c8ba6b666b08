"""The sheet of the worst images shows, of each, the region of its largest error."""

import numpy as np
import pytest
import torch

from nlsr.evaluate import bicubic
from nlsr.evaluate.worst import AMPLIFIED, Example, render
from nlsr.images.sheets import PANEL


def example(height: int, width: int, scale: int, *, spot: tuple[int, int] | None = None) -> Example:
    """A grey image, and a result that is wrong at one spot."""
    high_res = torch.full((1, 3, height, width), 0.5)
    upscaled = high_res.clone()
    if spot is not None:
        upscaled[..., spot[0], spot[1]] = 0.6
    low_res = torch.full((1, 3, height // scale, width // scale), 0.5)
    return Example("name.png", "bicubic 20 dB", "result 21 dB", low_res, upscaled, high_res)


def panel(sheet: np.ndarray, column: int, *, row: int = 0) -> np.ndarray:
    top = 12 + 2 * 22 + row * (PANEL + 2 * 22 + 12) + 22
    left = 12 + column * (PANEL + 12)
    return sheet[top : top + PANEL, left : left + PANEL]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_error_panel_shows_where_and_how_much(scale: int) -> None:
    sheet = np.asarray(render("title", [example(240, 288, scale, spot=(200, 250))], scale=scale))
    error = panel(sheet, 5)
    assert error.max() == round(0.1 * AMPLIFIED * 255)
    assert (error > 0).sum() == 3 * 9  # one pixel, three times enlarged
    result, truth = panel(sheet, 3), panel(sheet, 4)
    assert np.array_equal(np.unique(truth), [128])
    assert np.array_equal((result != truth).any(2), (error > 0).any(2))


def test_panels_show_the_same_region() -> None:
    generator = torch.Generator().manual_seed(0)
    low_res = torch.randint(0, 256, (1, 3, 60, 50), generator=generator) / 255
    upscaled = bicubic(4)(low_res)
    case = Example("a", "b", "c", low_res, upscaled, upscaled.flip(2))
    sheet = np.asarray(render("title", [case], scale=4))
    assert np.array_equal(panel(sheet, 2), panel(sheet, 3))
    enlarged = panel(sheet, 1)[6::12, 6::12]  # a low-res pixel is 4 x 3 wide
    values = (low_res[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
    places = [(y, x) for y in range(60 - 23) for x in range(50 - 23)]
    assert any(np.array_equal(values[y : y + 24, x : x + 24], enlarged) for y, x in places)


@pytest.mark.parametrize(("height", "width", "scale"), [(3, 3, 3), (16, 200, 4), (97, 31, 1), (130, 95, 5)])
def test_images_of_any_size_find_room(height: int, width: int, scale: int) -> None:
    height, width = height - height % scale, width - width % scale
    sheet = render("title", [example(height, width, scale, spot=(0, 0)), example(height, width, scale)], scale=scale)
    assert sheet.size == (6 * (PANEL + 12) + 12, 12 + 44 + 2 * (PANEL + 56))
    error = panel(np.asarray(sheet), 5)
    drawn = (error != error[..., :1]).any(2)  # the paper is not quite grey
    assert error[~drawn].max() == round(0.1 * AMPLIFIED * 255)


def test_nan_is_drawn() -> None:
    case = example(24, 24, 2)
    case.upscaled[..., 3:5, 3:5] = float("nan")
    render("title", [case], scale=2)
