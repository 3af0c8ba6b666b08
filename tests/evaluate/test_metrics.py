"""PSNR and SSIM against scikit-image and torchmetrics, on planes computed here in NumPy."""

from collections.abc import Callable, Iterator

import jaxtyping
import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torch.testing import assert_close

from nlsr.errors import ShapeError
from nlsr.evaluate import PROTOCOLS, psnr, ssim

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


def eight_bits(image: Tensor, border: int) -> np.ndarray:
    """(height, width, 3), 0 to 255, without the border."""
    values = np.rint(np.clip(image.double().numpy()[0], 0, 1) * 255).transpose(1, 2, 0)
    return values[border : values.shape[0] - border, border : values.shape[1] - border]


def reference_planes(name: str, image: Tensor, border: int) -> list[np.ndarray]:
    """What a protocol compares."""
    rgb = eight_bits(image, border)
    if name == "rgb":
        return [rgb[..., channel] for channel in range(3)]
    if name == "edsr":
        return [rgb @ np.array([65.738, 129.057, 25.064]) / 256]
    y = 16 + rgb @ np.array([65.481, 128.553, 24.966]) / 255
    return [np.floor(y + 0.5)] if name == "luma-uint8" else [y]


def reference_ssim(name: str, first: np.ndarray, second: np.ndarray) -> float:
    """scikit-image continues the image by mirroring and gives the value at every pixel: as `edsr` wants it; the others
    want it where the window fits, or of an image continued by its edge."""
    if name == "asid":
        first, second = np.pad(first, 5, mode="edge"), np.pad(second, 5, mode="edge")
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, full=True)
    _, values = structural_similarity(first, second, **options)
    return values.mean() if name == "edsr" else values[5:-5, 5:-5].mean()


@pytest.mark.parametrize(("height", "width", "border"), [(19, 20, 4), (33, 65, 3), (24, 21, 2)])
@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_every_protocol_equals_scikit_image(name: str, height: int, width: int, border: int) -> None:
    upscaled, high_res = images(1, height, width)
    pairs = [reference_planes(name, image, border) for image in (upscaled, high_res)]
    score = PROTOCOLS[name].measure(upscaled, high_res, border=border)
    expected_psnr = peak_signal_noise_ratio(np.stack(pairs[1]), np.stack(pairs[0]), data_range=255)
    expected_ssim = np.mean([reference_ssim(name, *planes) for planes in zip(*pairs, strict=True)])
    assert score.psnr == pytest.approx(expected_psnr, abs=TOLERANCE["psnr"])
    assert score.ssim == pytest.approx(expected_ssim, abs=TOLERANCE["ssim"])


@pytest.mark.parametrize("name", ["luma", "luma-uint8", "rgb"])
def test_torchmetrics_agrees_to_the_accuracy_of_float32(name: str) -> None:
    functional = pytest.importorskip("torchmetrics.functional.image")
    upscaled, high_res = images(1, 40, 52)
    first, second = (
        torch.from_numpy(np.stack(reference_planes(name, image, 4)))[None].float() for image in (upscaled, high_res)
    )
    score = PROTOCOLS[name].measure(upscaled, high_res, border=4)
    expected = functional.peak_signal_noise_ratio(first, second, data_range=255.0).item()
    assert score.psnr == pytest.approx(expected, abs=1e-4)
    # torchmetrics continues the image by reflection; where the window fits that does not matter.
    measure = functional.structural_similarity_index_measure
    _, values = measure(first, second, sigma=1.5, data_range=255.0, return_full_image=True)
    assert score.ssim == pytest.approx(values[..., 5:-5, 5:-5].mean().item(), abs=1e-4)


def test_psnr_under_edsr_is_that_of_the_weighted_difference() -> None:
    upscaled, high_res = images(1, 22, 31)
    difference = (eight_bits(upscaled, 3) - eight_bits(high_res, 3)) / 255
    weighted = (difference * np.array([65.738, 129.057, 25.064]) / 256).sum(2)
    expected = -10 * np.log10((weighted**2).mean())
    assert PROTOCOLS["edsr"].measure(upscaled, high_res, border=3).psnr == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["edsr", "asid"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 17), (10, 11)])
def test_protocols_of_the_full_map_measure_what_is_smaller_than_the_window(name: str, height: int, width: int) -> None:
    upscaled, high_res = images(1, height + 4, width + 4)
    first, second = (reference_planes(name, image, 2)[0] for image in (upscaled, high_res))
    mode = "symmetric" if name == "edsr" else "edge"
    first, second = (np.pad(plane, 5, mode=mode) for plane in (first, second))
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, full=True)
    expected = structural_similarity(first, second, **options)[1][5:-5, 5:-5].mean()
    assert PROTOCOLS[name].measure(upscaled, high_res, border=2).ssim == pytest.approx(expected, abs=1e-12)
