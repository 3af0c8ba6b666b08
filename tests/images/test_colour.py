"""Luma against the numbers of the standard and against scikit-image."""

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr

from nlsr.images import luma


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((0.0, 0.0, 0.0), 16.0),
        ((1.0, 1.0, 1.0), 235.0),
        ((1.0, 0.0, 0.0), 81.481),
        ((0.0, 1.0, 0.0), 144.553),
        ((0.0, 0.0, 1.0), 40.966),
    ],
)
def test_luma_of_primaries_is_that_of_the_standard(rgb, expected):
    assert luma(torch.tensor(rgb).view(1, 3, 1, 1)).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 3])
def test_luma_equals_scikit_image_and_keeps_dtype(batch, dtype):
    rgb = torch.rand(batch, 3, 5, 7, dtype=dtype, generator=torch.Generator().manual_seed(1))
    ours = luma(rgb)
    theirs = rgb2ycbcr(rgb.double().numpy(), channel_axis=1)[:, :1]
    assert ours.dtype == dtype
    assert ours.shape == (batch, 1, 5, 7)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-4 if dtype == torch.float32 else 1e-9)
