"""Whole or in tiles, a picture comes out the same; what goes wrong on the way is put right and said."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tolerances import assert_close

from nlsr.errors import ImageError, UsageError
from nlsr.images import Picture, read, resize, write
from nlsr.networks import LCoAN, LCoANConfig, Network
from nlsr.upscale import Upscaler, compare_tiling


def network(scale=2, **sizes):
    torch.manual_seed(0)
    sizes = dict(channels=8, num_groups=1, num_blocks=1, operator="none", image_skip=True) | sizes
    return LCoAN(LCoANConfig(scale, **sizes)).eval()


def image(height, width, channels=3):
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(3))


@torch.inference_mode()
def alone(low_res, scale=2):
    """What the network gives without an Upscaler."""
    return network(scale)(low_res).clamp(0, 1)


def as_float(samples):
    return samples.double() / torch.iinfo(samples.dtype).max


class Failing(Network):
    """Enlarges by repeating pixels, unless `fails(image)`: then `how(image)`. Copies tell what they saw: are it."""

    def __deepcopy__(self, memo):
        return self

    def __init__(self, fails, how):
        super().__init__(LCoANConfig(2))
        self.fails, self.how = fails, how
        self.seen = []

    def _upscale(self, low_res, *, draws, keep, collect):
        self.seen.append((*low_res.shape[2:], torch.is_autocast_enabled("cpu")))
        if self.fails(low_res):
            return self.how(low_res)
        return torch.nn.functional.interpolate(low_res, scale_factor=2, mode="nearest")

    def bytes_per_pixel(self):
        return 100


def exhausted(error):
    def how(*_):
        raise error

    return how


OUT_OF_MEMORY = [
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
]


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (33, 70), (100, 41)])
def test_tiled_equals_whole_where_a_network_sees_less_than_the_overlap(size):
    low_res = image(*size)
    assert_close(Upscaler(network(), tile=64)(low_res), Upscaler(network(), tile="none")(low_res))


def test_a_result_is_what_the_network_gives_clamped_to_the_range():
    low_res = image(9, 12) * 3 - 1
    result = Upscaler(network())(low_res)
    assert_close(result, alone(low_res))
    assert (result.min(), result.max()) == (0, 1)


@pytest.mark.parametrize(
    ("depth", "dtype"), [(8, torch.uint8), (16, torch.uint16), (32, torch.float32)], ids=["8", "16", "float"]
)
def test_a_picture_keeps_its_depth_and_what_it_carries(depth, dtype):
    picture = Picture(image(8, 6), alpha=torch.ones(1, 1, 8, 6), depth=depth, profile=b"profile", exif=b"exif")
    result = Upscaler(network(), precision="fp32").upscale(picture).picture
    assert (result.pixels.dtype, result.alpha.dtype, result.depth) == (dtype, dtype, depth)
    assert (result.profile, result.exif) == (b"profile", b"exif")
    if depth == 32:
        assert_close(result.pixels, alone(picture.pixels))
        return
    assert (result.alpha.int() == torch.iinfo(dtype).max).all()
    assert (as_float(result.pixels) - alone(picture.pixels)).abs().max() <= 0.5 / torch.iinfo(dtype).max + 1e-6


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_integer_pictures_are_taken_as_they_are_read(dtype):
    white = torch.iinfo(dtype).max
    samples, alpha = ((image(20, 30, channels) * white).round().int().to(dtype) for channels in (3, 1))
    picture = Picture(samples, alpha=alpha, depth=8 if white == 255 else 16)
    floating = Picture(samples.float() / white, alpha=alpha.float() / white, depth=picture.depth)
    results = [Upscaler(network(), tile=16).upscale(p).picture for p in (picture, floating)]
    assert results[0].pixels.equal(results[1].pixels)
    assert results[0].alpha.equal(results[1].alpha)


def test_progress_is_told_tile_by_tile():
    calls = []
    Upscaler(network(), tile=32)(image(50, 40), report=lambda done, total: calls.append((done, total)))
    assert calls == [(i + 1, 4) for i in range(4)]


# Sizes


@pytest.mark.parametrize(
    ("wish", "size"),
    [
        ({"scale": 1.5}, (30, 120)),
        ({"scale": 1.33}, (27, 106)),
        ({"width": 137}, (34, 137)),
        ({"fit": "101x100"}, (25, 101)),
        ({"scale": 2}, (40, 160)),
    ],
)
@pytest.mark.parametrize("tile", ["none", 64])
def test_any_size_is_the_networks_result_resized_once(wish, size, tile):
    low_res = image(20, 80)
    result = Upscaler(network(), tile=tile, **wish)(low_res)
    assert_close(result, resize(alone(low_res), size=size).clamp(0, 1))


def test_a_scale_above_the_models_takes_several_passes():
    low_res = image(11, 7)
    result = Upscaler(network(), scale=5, tile="none")(low_res)
    assert_close(result, resize(alone(alone(alone(low_res))), size=(55, 35)).clamp(0, 1))


@pytest.mark.parametrize("wish", [{"scale": 0.4}, {"width": 12}, {"scale": 1}])
def test_a_picture_that_is_not_enlarged_is_only_resized(wish):
    low_res = image(20, 30)
    result = Upscaler(Failing(lambda image: True, exhausted(AssertionError("used"))), **wish)(low_res)
    assert_close(result, resize(low_res, size=tuple(result.shape[2:])).clamp(0, 1))


def test_a_family_gives_the_nearest_sufficient_scale(monkeypatch):
    known = {f"tiny-x{scale}": network(scale) for scale in (2, 3, 4)}
    monkeypatch.setattr("nlsr.weights.catalogue.packaged", lambda: known)
    monkeypatch.setattr("nlsr.upscale.cascade.load", lambda name: known[name])
    low_res = image(10, 8)
    assert Upscaler("tiny").scale == 4
    assert_close(Upscaler("tiny")(low_res), alone(low_res, 4))
    assert_close(Upscaler("tiny", scale=3)(low_res), alone(low_res, 3))
    assert_close(Upscaler("tiny", scale=2.5)(low_res), resize(alone(low_res, 3), size=(25, 20)).clamp(0, 1))
    assert_close(Upscaler("tiny-x2", scale=2)(low_res), alone(low_res, 2))
    assert Upscaler("tiny", scale=8).plan(10, 8).scales == (2, 4)


# Alpha and grey


def test_alpha_goes_through_the_network_as_a_grey_picture():
    picture = Picture(image(20, 80), alpha=image(20, 80, 1) + 0.001, depth=32)
    result = Upscaler(network(), tile="none").upscale(picture).picture
    with torch.inference_mode():
        upscaled = network()(picture.alpha.expand(-1, 3, -1, -1))
    assert_close(result.alpha, upscaled.mean(1, keepdim=True).clamp(0, 1))
    tiled = Upscaler(network(), tile=64).upscale(picture).picture
    assert_close(tiled.alpha, result.alpha)


@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_alpha_that_differs_from_its_first_value_in_one_direction_is_no_plain_area(corner):
    alpha = torch.full((1, 1, 20, 30), corner)
    alpha[..., 10:, 15:] = 0.5
    result = Upscaler(network(), tile="none").upscale(Picture(image(20, 30), alpha=alpha, depth=32)).picture
    with torch.inference_mode():
        upscaled = network()(alpha.expand(-1, 3, -1, -1))
    assert_close(result.alpha, upscaled.mean(1, keepdim=True).clamp(0, 1))


def test_opaque_alpha_costs_nothing_and_stays_opaque(monkeypatch):
    monkeypatch.setattr("nlsr.upscale.stream.bleed", exhausted(AssertionError("colours were filled in")))
    counted = Failing(lambda image: False, None)
    for alpha in (torch.ones(1, 1, 20, 30), torch.full((1, 1, 20, 30), 65535, dtype=torch.uint16)):
        result = Upscaler(counted, tile="none").upscale(Picture(image(20, 30), alpha=alpha, depth=32)).picture
        assert (result.alpha == 1).all()
    assert len(counted.seen) == 2


@pytest.mark.parametrize("junk", [0.0, 1.0])
def test_colours_of_transparent_pixels_do_not_bleed(junk):
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(50), indexing="ij")
    alpha = ((rows - 20) ** 2 + (columns - 25) ** 2 < 150).float()[None, None]
    colour = torch.tensor([0.8, 0.5, 0.3]).view(1, 3, 1, 1)
    picture = Picture(torch.where(alpha > 0, colour, junk), alpha=alpha, depth=32)
    clean = Picture(colour.expand(1, 3, 40, 50), alpha=alpha, depth=32)
    results = [Upscaler("lcoan-light-x4", tile=32).upscale(p).picture for p in (picture, clean)]
    visible = results[0].alpha > 0.02
    assert ((results[0].pixels - results[1].pixels).abs() * visible).max() < 0.02


@pytest.mark.parametrize("depth", [8, 32])
def test_grey_stays_grey(depth):
    picture = Picture(image(20, 30, 1).expand(-1, 3, -1, -1), grey=True, depth=depth)
    result = Upscaler(network(), tile=16).upscale(picture).picture
    assert result.pixels[0, 0].equal(result.pixels[0, 1])
    assert result.pixels[0, 0].equal(result.pixels[0, 2])


# What goes wrong


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("tile", ["none", 64])
def test_when_memory_runs_out_it_goes_on_with_smaller_tiles_and_says_so(error, tile):
    low_res = image(150, 70)
    small = Failing(lambda image: image.shape[2] * image.shape[3] > 40**2, exhausted(error))
    result = Upscaler(small, tile=tile).upscale(Picture(low_res, depth=32))
    wanted = torch.nn.functional.interpolate(low_res, scale_factor=2, mode="nearest")
    assert_close(result.picture.pixels, wanted)
    assert "continued in tiles of 3" in result.notes[-1]
    assert len(result.notes) == (1 if tile == 64 else 2)


def test_memory_that_runs_out_half_way_costs_no_finished_rows():
    low_res, calls = image(400, 40), []
    late = Failing(lambda image: calls.append(1) or len(calls) == 5, exhausted(MemoryError()))
    result = Upscaler(late, tile=64).upscale(Picture(low_res, depth=32))
    wanted = torch.nn.functional.interpolate(low_res, scale_factor=2, mode="nearest")
    assert_close(result.picture.pixels, wanted)
    assert late.seen[4][:2] == (64, 40)
    assert {size[:2] for size in late.seen[5:]} == {(31, 25)}
    assert result.notes == ("memory ran out after 168 of 400 rows: continued in tiles of 32",)


def test_where_smaller_tiles_take_over_they_see_the_rows_above():
    """With a network that spoils the first rows of what it is given, as a border does."""

    def spoilt(low_res):
        upscaled = torch.ones(1, 3, 2 * low_res.shape[2], 2 * low_res.shape[3])
        upscaled[:, :, :4] = 0
        return upscaled

    calls = []
    late = Failing(lambda image: True, lambda image: exhausted(MemoryError())() if late_call() else spoilt(image))

    def late_call():
        calls.append(1)
        return len(calls) == 5

    result = Upscaler(late, tile=64).upscale(Picture(image(400, 40), depth=32))
    assert result.notes == ("memory ran out after 168 of 400 rows: continued in tiles of 32",)
    assert (result.picture.pixels[:, :, :4] == 0).all()
    assert_close(result.picture.pixels[:, :, 4:], torch.ones(1, 3, 796, 80))


def test_when_no_tile_fits_in_memory_it_is_one_line():
    never = Failing(lambda image: True, exhausted(MemoryError()))
    message = "a 70x50 picture does not fit in memory even in tiles of 16 pixels; close other programs or make it"
    with pytest.raises(ImageError, match=message):
        Upscaler(never)(image(50, 70))
    assert min(never.seen)[:2] == (14, 16)  # the smallest tiles of at most 16 pixels, 5 in 50 rows and 6 in 70 columns


def test_an_error_that_is_not_about_memory_comes_through():
    broken = Failing(lambda image: True, exhausted(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        Upscaler(broken)(image(50, 70))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_tile_that_overflows_in_half_precision_is_repeated_in_fp32(precision, value):
    def overflowing(low_res):
        upscaled = torch.nn.functional.interpolate(low_res, scale_factor=2, mode="nearest")
        upscaled[0, 1, 3, 5] = value
        return upscaled

    low_res, calls = image(50, 40), []
    network = Failing(lambda image: calls.append(1) or len(calls) == 2, overflowing)
    result = Upscaler(network, tile=32, precision=precision).upscale(Picture(low_res, depth=32))
    assert_close(result.picture.pixels, torch.nn.functional.interpolate(low_res, scale_factor=2, mode="nearest"))
    assert [seen[2] for seen in network.seen] == [True, True, False, True, True]
    assert result.notes == (f"1 tile overflowed in {precision} and was repeated in fp32",)


def test_values_that_are_not_finite_in_fp32_either_are_one_line():
    nan = Failing(lambda image: True, lambda image: torch.full((1, 3, 8, 8), torch.nan))
    with pytest.raises(ImageError, match="NaN or infinity in fp32 too"):
        Upscaler(nan, precision="bf16")(image(4, 4))
    with pytest.raises(ImageError, match="the picture or the weights hold some"):
        Upscaler(network())(torch.full((1, 3, 4, 4), torch.nan))


# Files


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_a_saved_picture_is_the_one_in_memory(tmp_path, ending):
    picture = Picture(image(50, 40), alpha=image(50, 40, 1), depth=8, profile=None)
    upscaler = Upscaler(network(), tile=16, scale=1.7)
    upscaler.save(picture, tmp_path / f"streamed.{ending}", quality=100)
    write(tmp_path / f"whole.{ending}", upscaler.upscale(picture).picture, quality=100)
    streamed, whole = (read(tmp_path / f"{name}.{ending}") for name in ("streamed", "whole"))
    assert streamed.pixels.shape == (1, 3, 85, 68)
    assert streamed.pixels.equal(whole.pixels)
    assert streamed.alpha.equal(whole.alpha)


def test_a_format_in_one_piece_that_exceeds_the_budget_is_refused_before_computing(tmp_path):
    unused = Failing(lambda image: True, exhausted(AssertionError("computed")))
    picture = Picture(torch.rand(1, 3, 1, 1).expand(1, 3, 1000, 1000))
    upscaler = Upscaler(unused, scale=16, memory=2**29)
    with pytest.raises(UsageError, match=r"to 16000x16000 needs .*, or write PNG or TIFF: JPEG is written in one"):
        upscaler.save(picture, tmp_path / "large.jpg")
    with pytest.raises(AssertionError, match="computed"):
        upscaler.save(picture, tmp_path / "large.png")
    assert list(tmp_path.iterdir()) == []


def test_a_stored_plan_is_followed_and_one_of_another_picture_refused():
    upscaler = Upscaler(network(), tile=32)
    plan = upscaler.plan(50, 40)
    other = Upscaler(network(), tile="none")
    assert other.upscale(Picture(image(50, 40)), plan=plan).plan == plan
    with pytest.raises(UsageError, match="the plan is one for 40x50 to 80x100, this is 40x51 to 80x102"):
        other.upscale(Picture(image(51, 40)), plan=plan)


# Precision, ensemble, tiling compared


def test_half_precision_is_close():
    low_res = image(20, 30)
    exact, half = (Upscaler(network(), precision=precision)(low_res) for precision in ("fp32", "bf16"))
    assert half.dtype == torch.float32
    assert 0 < (half - exact).abs().max() < 0.01


def test_an_ensemble_is_the_mean_of_eight_whole_or_in_tiles():
    low_res = image(20, 80)
    with torch.inference_mode():
        turned = [low_res.rot90(k, (2, 3)) for k in range(4)]
        flips = [network()(view).rot90(-k, (2, 3)) for k, view in enumerate(turned)]
        flips += [network()(view.flip(2)).flip(2).rot90(-k, (2, 3)) for k, view in enumerate(turned)]
    whole, tiled = (Upscaler(network(), ensemble=True, tile=tile)(low_res) for tile in ("none", 64))
    assert_close(whole, torch.stack(flips).mean(0).clamp(0, 1))
    assert_close(tiled, whole)


def test_auto_is_never_half_precision_for_more_than_8_bits(monkeypatch):
    monkeypatch.setattr("nlsr.upscale.precision.has_fast_bf16", lambda device: True)
    assert [Upscaler(network()).plan(9, 9, depth=depth).precision for depth in (8, 16, 32)] == ["bf16", "fp32", "fp32"]
    monkeypatch.setattr("nlsr.upscale.precision.has_fast_bf16", lambda device: False)
    assert Upscaler(network()).plan(9, 9).precision == "fp32"


def test_tiling_is_compared_in_db_and_as_a_picture():
    whole = torch.full((1, 3, 8, 8), 0.5)
    tiled = whole.clone()
    tiled[0, :, 4] += 0.01
    difference = compare_tiling(tiled, whole, amplification=10)
    assert difference.psnr == pytest.approx(-10 * np.log10(0.01**2 / 8), abs=1e-3)
    assert difference.largest == pytest.approx(0.01, abs=1e-6)
    assert_close(difference.picture[0, :, 4], torch.full((3, 8), 0.6))
    assert (difference.picture[0, :, 3] == 0.5).all()
    assert str(difference) == "tiled against whole: 49.03 dB, largest difference 2.5 of 255"
    assert compare_tiling(whole, whole).psnr == float("inf")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 3}, "`tile=3`: expected 'auto', 'none' or a number of pixels from 16 up"),
        ({"tile": "big"}, "`tile=big`"),
        ({"tile": True}, "`tile=True`"),
        ({"memory": 0}, "expected a memory budget above 0 bytes, got 0"),
        ({"precision": "fp8"}, "`precision=fp8`: expected auto, fp32, bf16, fp16"),
        ({"scale": 2, "fit": "5x5"}, "expected one of `scale`, `width`, `height` and `fit`"),
        ({"device": "nowhere"}, "`device=nowhere`"),
    ],
)
def test_wrong_options_get_one_line(options, message):
    with pytest.raises(UsageError, match=message) as error:
        Upscaler(network(), **options)
    assert "\n" not in str(error.value)


def test_a_pil_image_survives_the_way_to_a_file():
    buffer = io.BytesIO()
    Upscaler(network(), width=33)(Image.new("RGB", (20, 10), "red")).save(buffer, "PNG")
    assert Image.open(buffer).size == (33, 17)


def test_the_callers_network_is_left_alone():
    network = LCoAN(LCoANConfig(2, channels=8, num_groups=1, num_blocks=1, num_clusters=4, chunk_size=16)).train()
    strides = network.head.weight.stride()
    Upscaler(network)(torch.rand(3, 9, 9))
    assert network.training
    assert network.head.weight.stride() == strides


def test_a_network_in_another_dtype_computes_as_one_in_float32():
    network = LCoAN(LCoANConfig(2, channels=8, num_groups=1, num_blocks=1, num_clusters=4, chunk_size=16))
    image = torch.rand(3, 9, 9)
    expected = Upscaler(network)(image)
    assert torch.equal(Upscaler(network.double())(image), expected)


def test_a_budget_may_be_said_in_words():
    assert Upscaler(memory="2GiB").budget == 2 * 2**30
    with pytest.raises(UsageError, match="expected a size like 2GiB"):
        Upscaler(memory="much")


def test_what_is_no_network_is_refused():
    with pytest.raises(UsageError, match="expected model_scale, how many times larger Linear makes an image"):
        Upscaler(torch.nn.Linear(3, 3))
