"""The eight flips and turns."""

import torch
from tests.tolerances import assert_close
from torch.nn import functional as F

from nlsr.upscale.ensemble import ensemble


def test_the_eight_positions_differ_and_all_come_back():
    seen = []

    def upscale(image):
        seen.append(image)
        return F.interpolate(image, scale_factor=2, mode="nearest")

    image = torch.rand(1, 3, 5, 8)
    assert_close(ensemble(upscale, image), F.interpolate(image, scale_factor=2, mode="nearest"))
    square = [view if view.shape[2] == 5 else view.mT for view in seen]
    assert len({tuple(view.flatten().tolist()) for view in seen}) == 8
    assert {view.shape for view in square} == {(1, 3, 5, 8)}


def test_the_result_turns_with_the_image():
    torch.manual_seed(1)
    kernel = torch.randn(3, 3, 3, 3)

    def upscale(image):
        return F.conv2d(image, kernel, padding=1).sin()

    image = torch.rand(1, 3, 6, 9)
    assert_close(ensemble(upscale, image.rot90(1, (2, 3))), ensemble(upscale, image).rot90(1, (2, 3)))
    assert_close(ensemble(upscale, image.flip(2)), ensemble(upscale, image).flip(2))
    literal = torch.stack([upscale(image), upscale(image.flip(3)).flip(3)])
    assert not torch.allclose(literal[0], literal[1], atol=1e-3)
