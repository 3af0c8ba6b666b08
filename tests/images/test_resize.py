"""`resize` against facts that hold for every right bicubic resize, and against Pillow where both must agree.

Its equality with MATLAB's own output is tested where recorded MATLAB images are.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from nlsr.errors import ShapeError
from nlsr.images import resize

SIZES = [(1, 1), (1, 5), (3, 2), (12, 12), (33, 17)]


def rand(*shape, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def rand_bytes(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("scale", [1 / 4, 1 / 3, 0.7, 1, 2, 2.5])
@pytest.mark.parametrize("size", SIZES)
def test_a_constant_image_stays_constant(size, scale):
    assert torch.allclose(
        resize(torch.full((2, 3, *size), 0.3, dtype=torch.float64), scale=scale) - 0.3, torch.tensor(0.0).double()
    )
    assert (resize(torch.full((3, *size), 251, dtype=torch.uint8), scale=scale) == 251).all()


@pytest.mark.parametrize("size", SIZES)
def test_scale_one_changes_nothing(size):
    assert torch.equal(resize(rand_bytes(3, *size), scale=1), rand_bytes(3, *size))
    assert torch.allclose(resize(rand(3, *size), size=size), rand(3, *size), atol=1e-12)


@pytest.mark.parametrize(("side", "scale", "expected"), [(9, 1 / 3, 3), (10, 1 / 3, 4), (1, 1 / 4, 1), (5, 2.5, 13)])
def test_a_scaled_side_is_rounded_up(side, scale, expected):
    assert resize(rand(side, 2 * side), scale=scale).shape[0] == expected


@pytest.mark.parametrize("size", [(4, 9), (11, 3), (40, 50)])
def test_size_may_scale_the_axes_differently(size):
    assert resize(rand(2, 3, 13, 21), size=size).shape == (2, 3, *size)


@pytest.mark.parametrize("size", [(7, 5), (26, 40)])
def test_turning_the_image_turns_the_result(size):
    image = rand(1, 13, 20)
    assert torch.allclose(resize(image.mT, size=size[::-1]), resize(image, size=size).mT, atol=1e-12)
    assert torch.allclose(resize(image.flip(-1), size=size), resize(image, size=size).flip(-1), atol=1e-12)


def test_a_linear_ramp_stays_linear_inside_when_enlarged():
    ramp = torch.arange(20, dtype=torch.float64).expand(4, 20)
    inner = resize(ramp, scale=3)[0, 9:-9]
    assert torch.allclose(inner.diff(), torch.tensor(1 / 3, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("size", [(9, 7), (64, 41), (80, 96)])
def test_float_result_equals_pillow_away_from_the_border(size):
    # Pillow uses the same kernel and antialiasing, but cuts it off at the border instead of mirroring the image.
    image = rand(32, 41, dtype=torch.float32)
    theirs = np.asarray(Image.fromarray(image.numpy()).resize(size[::-1], Image.Resampling.BICUBIC))
    margin = [-(-8 * new // (2 * old)) + 2 if new > old else 3 for new, old in zip(size, image.shape, strict=True)]
    inside = tuple(slice(m, s - m) for m, s in zip(margin, size, strict=True))
    ours = resize(image, size=size)[inside].numpy()
    assert ours.size
    np.testing.assert_allclose(ours, theirs[inside], atol=2e-5)


def test_bytes_are_rounded_half_up_and_clipped_after_each_pass():
    image = rand_bytes(9, 8)
    rows = resize(image.double(), size=(3, 8)).add(0.5).floor().clamp(0, 255)  # rows shrink more: they go first
    expected = resize(rows, size=(3, 4)).add(0.5).floor().clamp(0, 255).to(torch.uint8)
    assert torch.equal(resize(image, size=(3, 4)), expected)
    once = resize(image.double(), size=(3, 4)).add(0.5).floor().clamp(0, 255).to(torch.uint8)
    assert not torch.equal(expected, once)


def test_floats_are_not_clipped_at_an_edge():
    edge = torch.cat([torch.zeros(4, 6), torch.ones(4, 6)], 1)
    assert resize(edge, scale=2).max() > 1.01


@pytest.mark.parametrize(
    ("shape", "options", "error", "message"),
    [
        ((5,), {"scale": 2}, ShapeError, r"got \(5,\)"),
        ((3, 0, 4), {"scale": 2}, ShapeError, r"got \(3, 0, 4\)"),
        ((4, 4), {}, ValueError, "exactly one of scale and size"),
        ((4, 4), {"scale": 2, "size": (8, 8)}, ValueError, "exactly one of scale and size"),
        ((4, 4), {"scale": 0}, ValueError, "positive scale, got 0"),
        ((4, 4), {"scale": float("nan")}, ValueError, "positive scale, got nan"),
        ((4, 4), {"size": (0, 8)}, ValueError, r"positive size, got \(0, 8\)"),
    ],
)
def test_impossible_requests_say_what_was_expected(shape, options, error, message):
    with pytest.raises(error, match=message):
        resize(torch.zeros(shape), **options)


def test_integers_other_than_bytes_are_refused():
    with pytest.raises(TypeError, match=r"got torch\.int32"):
        resize(torch.zeros(4, 4, dtype=torch.int32), scale=2)
