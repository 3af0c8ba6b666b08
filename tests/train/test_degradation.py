"""Degradation: what each operation does against closed forms, that nothing moves, and what a batch makes of it."""

import io
import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, special, stats
from tests.train.conftest import pattern

from nlsr.errors import RecipeError
from nlsr.images import resize
from nlsr.train.data import Batches, DegradationSection, degrade, prepare
from nlsr.train.data.degradation import operations
from nlsr.train.data.degradation.kernels import blur_kernel, sinc_kernel
from nlsr.train.recipe import read_recipe

NOTHING = dict(clean=0.0, twice=0.0, blur=0.0, resize=0.0, noise=0.0, jpeg=0.0, ringing=0.0)


def draws(*seed):
    return np.random.default_rng(seed or 0)


def settings(**changes):
    return DegradationSection(**(NOTHING | changes))


def picture(height=64, width=80, seed=1):
    return torch.from_numpy(pattern(seed, height, width)).permute(2, 0, 1).contiguous()


def blob(side=96):
    """A Gaussian off the middle, as wide as three low-res pixels at x4."""
    y, x = ((torch.arange(side) + 0.5) / side - where for where in (0.4, 0.55))
    return (200 * torch.exp(-(y[:, None] ** 2 + x**2) / (2 * 0.08**2))).round().byte().expand(3, -1, -1).contiguous()


def place(image):
    """Where the centre of mass is along each axis, as a share of its length."""
    mass = (image.double() - image.double().min()).mean(0)
    return [
        float((mass.sum(1 - axis) * (torch.arange(side) + 0.5)).sum() / mass.sum() / side)
        for axis, side in enumerate(mass.shape)
    ]


def spread(image):
    """Variance along the first axis, as a share of its length, squared."""
    mass = (image.double() - image.double().min()).mean(0).sum(1)
    where = (torch.arange(len(mass)) + 0.5) / len(mass)
    return float((mass * (where - place(image)[0]) ** 2).sum() / mass.sum())


@pytest.mark.parametrize("angle", [0.0, 0.7])
@pytest.mark.parametrize("sigmas", [(0.2, 0.2), (1.5, 1.5), (3.0, 0.8)])
@pytest.mark.parametrize(("shape", "power"), [("generalised", 0.5), ("generalised", 1.0), ("plateau", 2.0)])
def test_blur_kernels_sum_to_one_and_are_symmetric(sigmas, angle, shape, power):
    kernel = blur_kernel(sigmas, angle, shape, power)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert kernel.min() >= 0
    assert torch.allclose(kernel, kernel.flip(0, 1))


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_kernels_have_the_density_of_their_shape_and_power(power):
    for shape, density in (
        ("generalised", lambda r: np.exp(-(r ** (2 * power)) / 2)),
        ("plateau", lambda r: 1 / (1 + r ** (2 * power))),
    ):
        kernel = blur_kernel((2.0, 2.0), 0.0, shape, power)
        profile = kernel[8, 8:] / kernel[8, 8]
        np.testing.assert_allclose(profile, density(np.arange(9) / 2.0), atol=1e-6)


def test_a_gaussian_kernel_has_its_covariance():
    """Covariance of a turned Gaussian: R diag(sigma^2) R'."""
    kernel, angle = blur_kernel((3.0, 1.5), 0.5).double(), 0.5
    steps = torch.arange(kernel.shape[0]).double() - kernel.shape[0] // 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    expected = turn @ np.diag([9.0, 2.25]) @ turn.T
    found = [[float((kernel * a * b).sum()) for b in (x, y)] for a in (x, y)]
    np.testing.assert_allclose(found, expected, rtol=0.01, atol=0.01)


def test_a_sinc_kernel_is_the_round_low_pass():
    """Against Bessel's function of SciPy, and in frequency: passes below the cutoff, stops above."""
    kernel = sinc_kernel(math.pi / 2).double()
    radius = 3.0
    expected = special.j1(math.pi / 2 * radius) / (4 * radius)
    centre = kernel.shape[0] // 2
    ratio = kernel[centre, centre + 3] / kernel[centre, centre]
    assert ratio == pytest.approx(expected / ((math.pi / 2) ** 2 / (4 * math.pi)), rel=1e-4)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    response = torch.fft.rfft2(kernel, s=(64, 64)).abs()
    assert response[0, 8] > 0.85
    assert response[0, 28] < 0.15


def test_blur_is_a_convolution_with_mirrored_borders():
    image, kernel = picture(21, 33), blur_kernel((2.0, 0.7), 0.4, "plateau", 1.3)
    expected = [ndimage.convolve(channel.astype(float), kernel.numpy(), mode="reflect") for channel in image.numpy()]
    np.testing.assert_allclose(operations.blur(image, kernel), np.stack(expected), atol=1e-3)


def test_area_is_the_mean_over_what_a_pixel_covers():
    image = picture(12, 18)
    pooled = torch.nn.functional.avg_pool2d(image.float(), 3)
    torch.testing.assert_close(operations.resize_with("area", image, (4, 6)), pooled)
    fine = image.float().repeat_interleave(5, 1).repeat_interleave(5, 2)  # 12 -> 5 rows, exactly, over 60
    torch.testing.assert_close(
        operations.resize_with("area", image, (5, 9)), torch.nn.functional.avg_pool2d(fine, (12, 10))
    )


def test_gaussian_noise_has_its_deviation_in_each_channel_or_in_all_alike():
    image = torch.full((3, 100, 100), 128, dtype=torch.uint8)
    noise = operations.add_noise(image, 5.0, draws(), grey=False) - 128
    assert noise.std() == pytest.approx(5, rel=0.03)
    assert stats.kstest((noise / 5).flatten().numpy(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(noise.flatten(1).numpy())[0, 1]) < 0.05
    grey = operations.add_noise(image, 5.0, draws(), grey=True) - 128
    assert grey.std() == pytest.approx(5, rel=0.05)
    assert torch.equal(grey[0], grey[1])


@pytest.mark.parametrize("grey", [False, True])
def test_photon_noise_has_a_variance_that_is_linear_in_the_intensity(grey):
    for value in (0, 16, 64, 255):
        image = torch.full((3, 120, 120), value, dtype=torch.uint8)
        noise = operations.add_photon_noise(image, 6.0, draws(), grey=grey) - value
        assert noise.var() == pytest.approx(36 * value / 255, rel=0.06), value
        assert abs(noise.mean()) < 0.12
        assert torch.equal(noise[0], noise[1]) == (grey or value == 0)


@pytest.mark.parametrize("full_colour", [False, True])
def test_compression_is_that_of_a_jpeg_file(full_colour):
    image = picture()
    file = io.BytesIO()
    sampling = 0 if full_colour else 2
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=60, subsampling=sampling)
    expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    assert torch.equal(operations.compress(image, 60, full_colour=full_colour), expected)


def test_qualities_stay_in_their_range(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "nlsr.train.data.degradation.chain.compress",
        lambda image, quality, full_colour: seen.append(quality) or image,
    )
    for seed in range(200):
        degrade(picture(8, 8), scale=2, settings=settings(jpeg=1.0, jpeg_quality=(70, 73)), generator=draws(seed))
    assert set(seen) == {70, 71, 72, 73}


@pytest.mark.parametrize("kernel", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("side", [24, 37, 70, 131])
def test_a_resize_does_not_move_a_blob(kernel, side):
    assert place(operations.resize_with(kernel, blob(), (side, side))) == pytest.approx([0.4, 0.55], abs=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(blur=1.0, anisotropic=1.0),
        dict(blur=1.0, plateau=1.0, generalised=0.0),
        dict(resize=1.0),
        dict(resize=1.0, twice=1.0, resize_kernels=["area"]),
        dict(ringing=1.0),
        dict(jpeg=1.0, full_colour=1.0, jpeg_quality=(100, 100)),
        dict(noise=1.0, noise_level=(0.5, 0.5), poisson=0.0),
    ],
)
def test_no_stage_moves_a_blob(changes):
    for seed in range(3):
        low = degrade(blob(), scale=4, settings=settings(**changes), generator=draws(seed))
        assert low.shape == (3, 24, 24)
        assert place(low) == pytest.approx([0.4, 0.55], abs=4e-3), seed  # a tenth of a low-res pixel


@pytest.mark.parametrize("scale", [2, 4])
def test_a_blur_is_as_wide_as_the_recipe_says_in_low_res_pixels(scale):
    """Variances of a convolution add up."""
    image, wide = blob(24 * scale), dict(blur=1.0, blur_sigma=(0.8, 0.8), anisotropic=0.0, generalised=0.0, plateau=0.0)
    plain, blurred = (
        degrade(image, scale=scale, settings=settings(resize_kernels=["bicubic"], **changes), generator=draws(0))
        for changes in ({}, wide)
    )
    assert (spread(blurred) - spread(plain)) * 24**2 == pytest.approx(0.8**2, rel=0.1)


def test_pictures_go_through_the_chain_once_or_twice_and_in_both_orders(monkeypatch):
    """Compressions: at the end on low-res or on another size, and before that on something larger."""
    sizes = []
    chain = "nlsr.train.data.degradation.chain"
    monkeypatch.setattr(f"{chain}.compress", lambda image, quality, full_colour: sizes[-1].append(image) or image)
    always = settings(jpeg=1.0, twice=0.4, resize=1.0, resize_range=(0.5, 1.5))
    for seed in range(300):
        sizes.append([])
        degrade(picture(64, 64), scale=4, settings=always, generator=draws(seed, 7))
    sides = [[image.shape[1] for image in one] for one in sizes]
    assert np.mean([len(one) == 2 for one in sides]) == pytest.approx(0.4, abs=0.08)
    first = [one[0] for one in sides if len(one) == 2]
    assert 8 <= min(first) < 16  # half of low-res
    assert 80 < max(first) <= 96  # one and a half of high-res
    last = [one[-1] for one in sides]
    assert np.mean(np.equal(last, 16)) == pytest.approx(0.5, abs=0.12)
    assert 8 <= min(last) < 10
    assert 20 < max(last) <= 24


def test_with_everything_off_the_patch_is_the_plain_one(data, tmp_path):
    """Every value, also at the borders of images, which are mirrored."""
    pairs = prepare([data / "train"], scale=2, source_scales=[1.0], cache=tmp_path / "cache")
    same = dict(patch_size=20, batch_size=16, seed=4)
    plain = Batches(pairs, **same)
    degraded = Batches(pairs, **same, degradation=settings(resize_kernels=["bicubic"]))
    for step in range(3):
        for one, other in zip(plain[step], degraded[step], strict=True):
            assert torch.equal(one, other)


def test_degraded_patches_are_aligned_with_their_high_res_patch(data, tmp_path):
    pairs = prepare([data / "train"], scale=2, source_scales=[1.0], cache=tmp_path / "cache")
    mild = settings(blur=1.0, resize=1.0, noise=1.0, jpeg=1.0, jpeg_quality=(90, 95), noise_level=(1.0, 2.0))
    low, high = Batches(pairs, patch_size=16, batch_size=16, seed=0, degradation=mild)[0]
    plain = resize(high, scale=1 / 2)[..., 3:-3, 3:-3]
    errors = {
        (y, x): float((low[..., 3 + y : 13 + y, 3 + x : 13 + x] - plain).square().mean())
        for y in (-1, 0, 1)
        for x in (-1, 0, 1)
    }
    assert min(errors, key=errors.__getitem__) == (0, 0)


def test_a_degraded_batch_depends_on_seed_and_step_alone(data, tmp_path):
    pairs = prepare([data / "train"], scale=2, source_scales=[1.0], cache=tmp_path / "cache")

    def batches(**changes):
        return Batches(pairs, **(dict(patch_size=8, batch_size=6, seed=1, degradation=settings(noise=1.0)) | changes))

    first, again = batches(), pickle.loads(pickle.dumps(batches()))
    first[4]
    assert torch.equal(first[5][0], again[5][0])
    assert not torch.equal(first[5][0], batches(seed=2)[5][0])
    parts = [batches(rank=rank, ranks=2)[3][0] for rank in range(2)]
    assert torch.equal(torch.cat(parts), first[3][0])


def test_the_clean_share_of_the_patches_is_plain(data, tmp_path):
    pairs = prepare([data / "train"], scale=2, source_scales=[1.0], cache=tmp_path / "cache")
    same = dict(patch_size=8, batch_size=400, seed=1)
    clean = Batches(pairs, **same)[0][0]
    some = Batches(pairs, **same, degradation=DegradationSection(clean=0.3, noise=1.0))[0][0]
    assert (clean == some).flatten(1).all(1).float().mean() == pytest.approx(0.3, abs=0.07)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_defaults_give_images_of_the_right_size_at_every_scale(scale):
    for seed in range(20):
        low = degrade(picture(8 * scale, 5 * scale), scale=scale, settings=DegradationSection(), generator=draws(seed))
        assert low.shape == (3, 8, 5)
        assert low.dtype == torch.uint8


def test_strengths_differ_between_the_patches_of_a_batch():
    images = [degrade(picture(), scale=2, settings=DegradationSection(), generator=draws(seed)) for seed in range(12)]
    assert len({image.numpy().tobytes() for image in images}) == 12


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.degradation.jpg=0.5", "data.degradation.jpg: unknown; did you mean 'jpeg'?"),
        ("data.degradation.blur=2", "data.degradation.blur: Input should be less than or equal to 1"),
        ("data.degradation.noise_level=[5, 1]", "expected the smaller bound first, got [5.0, 1.0]"),
        ("data.degradation.jpeg_quality=[0, 50]", "expected two qualities from 1 to 100"),
        ("data.degradation.plateau=0.9", "expected generalised + plateau of 1 or less, got 1.05"),
        ('data.degradation.resize_kernels=["cubic"]', "Input should be 'area', 'bilinear' or 'bicubic'"),
        ("data.degredation.blur=1", "data.degredation: unknown; did you mean 'degradation'?"),
    ],
)
def test_a_wrong_setting_is_named(recipe_file, setting, message):
    with pytest.raises(RecipeError) as error:
        read_recipe(recipe_file, [setting])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_section_means_the_defaults(recipe_file):
    recipe_file.write_text(recipe_file.read_text() + "[data.degradation]\n")
    assert read_recipe(recipe_file).data.degradation == DegradationSection()
