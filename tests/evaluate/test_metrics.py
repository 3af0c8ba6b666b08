"""PSNR and SSIM of luma against scikit-image, on luma computed here in NumPy."""

from collections.abc import Callable, Iterator

import jaxtyping
import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torch.testing import assert_close

from nlsr.errors import ShapeError
from nlsr.evaluate import psnr, ssim

Metric = Callable[..., Tensor]

TOLERANCE = {"psnr": 1e-9, "ssim": 1e-12}
"""Both sides are float64."""


@pytest.fixture
def untyped() -> Iterator[None]:
    """Switches off the shape check of the test run, so that a wrong shape meets our own error."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def images(batch: int, height: int, width: int, *, noise: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A smooth image with texture, and a noisy copy that leaves [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    phases = torch.rand(batch, 3, 1, 1, generator=generator) * 6
    high_res = 0.5 + 0.5 * torch.sin(phases + 0.3 * y + 0.17 * x)
    return high_res + noise * torch.randn(batch, 3, height, width, generator=generator), high_res


def reference_luma(image: Tensor, border: int) -> list[np.ndarray]:
    eight_bits = np.rint(np.clip(image.double().numpy(), 0, 1) * 255)
    planes = 16 + np.tensordot(eight_bits, [65.481, 128.553, 24.966], axes=(1, 0)) / 255
    return [plane[border : plane.shape[0] - border, border : plane.shape[1] - border] for plane in planes]


SIZES = [(1, 11, 11, 0), (3, 13, 29, 1), (1, 19, 20, 4), (3, 33, 65, 3)]


@pytest.mark.parametrize(("batch", "height", "width", "border"), [*SIZES, (2, 1, 1, 0), (1, 9, 10, 4)])
def test_psnr_equals_scikit_image(batch: int, height: int, width: int, border: int) -> None:
    upscaled, high_res = images(batch, height, width)
    pairs = zip(reference_luma(high_res, border), reference_luma(upscaled, border), strict=True)
    expected = torch.tensor([peak_signal_noise_ratio(*pair, data_range=255) for pair in pairs], dtype=torch.float64)
    assert_close(psnr(upscaled, high_res, border=border), expected, atol=TOLERANCE["psnr"], rtol=0)


@pytest.mark.parametrize(("batch", "height", "width", "border"), SIZES)
def test_ssim_equals_scikit_image_where_the_window_fits(batch: int, height: int, width: int, border: int) -> None:
    upscaled, high_res = images(batch, height, width)
    expected = []
    for pair in zip(reference_luma(high_res, border), reference_luma(upscaled, border), strict=True):
        # scikit-image pads the image; its own mean leaves out the same 5 pixels, its map does not.
        _, map_ = structural_similarity(
            *pair, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, full=True
        )
        expected.append(map_[5:-5, 5:-5].mean())
    actual = ssim(upscaled, high_res, border=border)
    assert_close(actual, torch.tensor(expected, dtype=torch.float64), atol=TOLERANCE["ssim"], rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_images_are_infinitely_close(dtype: torch.dtype) -> None:
    image = images(3, 17, 23)[0].to(dtype)
    assert psnr(image, image, border=2).tolist() == [float("inf")] * 3
    assert ssim(image, image, border=2).tolist() == [1.0] * 3


def test_metrics_ignore_what_8_bits_cannot_hold() -> None:
    high_res = torch.full((1, 3, 15, 15), 100 / 255)
    high_res[..., :7] = 1.0
    upscaled = high_res + 0.4 / 255
    assert psnr(upscaled, high_res, border=0).item() == float("inf")
    assert psnr(high_res + 0.6 / 255, high_res, border=0).item() < 60


def test_metrics_ignore_the_border_and_nothing_else() -> None:
    _, high_res = images(1, 21, 19)
    upscaled = high_res.clone()
    upscaled[..., :3, :] = 0
    upscaled[..., -3:] = 1
    assert psnr(upscaled, high_res, border=3).item() == float("inf")
    assert ssim(upscaled, high_res, border=3).item() == 1.0
    assert psnr(upscaled, high_res, border=2).item() < 30
    assert ssim(upscaled, high_res, border=2).item() < 1


def test_batch_equals_images_alone() -> None:
    upscaled, high_res = images(3, 17, 14)
    for metric in (psnr, ssim):
        alone = torch.cat([metric(upscaled[i : i + 1], high_res[i : i + 1], border=1) for i in range(3)])
        assert torch.equal(metric(upscaled, high_res, border=1), alone)


def test_nan_is_not_taken_for_a_colour() -> None:
    upscaled, high_res = images(1, 15, 15)
    upscaled[0, 1, 7, 7] = float("nan")
    assert psnr(upscaled, high_res, border=1).isnan().all()
    assert ssim(upscaled, high_res, border=1).isnan().all()


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("other", [(1, 3, 20, 21), (2, 3, 20, 20), (1, 1, 20, 20), (3, 20, 20)])
def test_other_size_is_an_error(metric: Metric, other: tuple[int, ...], untyped: None) -> None:
    with pytest.raises(ShapeError, match=r"expected upscaled and high_res of one size .*, got \(1, 3, 20, 20\) and \("):
        metric(torch.zeros(1, 3, 20, 20), torch.zeros(other), border=2)


def test_grey_images_are_an_error(untyped: None) -> None:
    with pytest.raises(ShapeError, match=r"\(batch, 3, height, width\), got \(1, 1, 20, 20\) and"):
        psnr(torch.zeros(1, 1, 20, 20), torch.zeros(1, 1, 20, 20), border=2)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(("height", "width"), [(8, 40), (40, 7), (1, 1)])
def test_border_without_pixels_inside_is_an_error(metric: Metric, height: int, width: int) -> None:
    image = torch.zeros(1, 3, height, width)
    message = f"a border of 4 leaves no pixel of an image of {width}×{height}; it needs 9×9 or more"
    with pytest.raises(ShapeError, match=message):
        metric(image, image, border=4)


def test_negative_border_is_an_error() -> None:
    image = torch.zeros(1, 3, 20, 20)
    with pytest.raises(ShapeError, match="expected a border of 0 pixels or more, got -1"):
        psnr(image, image, border=-1)


def test_image_smaller_than_the_window_of_ssim_is_an_error() -> None:
    image = torch.zeros(1, 3, 18, 30)
    with pytest.raises(ShapeError, match="SSIM needs 11×11 pixels or more inside the border, got 22×10"):
        ssim(image, image, border=4)
    assert ssim(image, image, border=3).item() == 1.0
