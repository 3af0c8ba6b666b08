"""Whatever a program holds a picture in, it gets the same back, larger."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tolerances import assert_close

from nlsr.errors import ShapeError
from nlsr.networks import LCoAN, LCoANConfig
from nlsr.upscale import Upscaler


@pytest.fixture(scope="module")
def upscaler():
    torch.manual_seed(0)
    config = LCoANConfig(2, channels=8, num_groups=1, num_blocks=1, operator="none", image_skip=True)
    return Upscaler(LCoAN(config).eval(), precision="fp32")


def values(*shape, dtype=np.uint8):
    drawn = np.random.default_rng(0).random(shape)
    return (drawn * np.iinfo(dtype).max).astype(dtype) if np.issubdtype(dtype, np.integer) else drawn.astype(dtype)


def expected(upscaler, rgb):
    """From (h, w, 3) in [0, 1] to the same of the result, by the network alone."""
    low_res = torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        return upscaler.models.cascade(2)(low_res).clamp(0, 1)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1), (np.float64, 1)])
def test_an_array_gives_an_array_of_its_dtype(upscaler, dtype, white):
    array = values(7, 5, 3, dtype=dtype)
    result = upscaler(array)
    assert (type(result), result.dtype, result.shape) == (np.ndarray, np.dtype(dtype), (14, 10, 3))
    step = 0.5 if white > 1 else 0
    assert np.abs(result / white - expected(upscaler, array / white)).max() <= step / white + 1e-5


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 1), (7, 5, 3), (7, 5, 4), (1, 1, 3), (1, 1)])
def test_an_array_gives_an_array_of_its_channels(upscaler, shape):
    result = upscaler(values(*shape))
    assert result.shape == (2 * shape[0], 2 * shape[1], *shape[2:])
    assert result.flags.c_contiguous


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.uint16])
@pytest.mark.parametrize("shape", [(1, 3, 6, 9), (3, 6, 9)])
def test_a_tensor_gives_a_tensor_of_its_dtype_and_shape(upscaler, shape, dtype):
    image = torch.from_numpy(values(*shape, dtype=np.float32))
    image = image.to(dtype) if dtype.is_floating_point else (image * 255).to(dtype)
    result = upscaler(image)
    assert (result.dtype, tuple(result.shape)) == (dtype, (*shape[:-2], 12, 18))
    assert not result.is_inference()
    if dtype == torch.float32:
        wanted = torch.from_numpy(expected(upscaler, image.reshape(3, 6, 9).permute(1, 2, 0).numpy()))
        assert_close(result.reshape(3, 12, 18), wanted.permute(2, 0, 1))


@pytest.mark.parametrize(
    ("mode", "result_mode"),
    [
        ("RGB", "RGB"),
        ("L", "L"),
        ("RGBA", "RGBA"),
        ("LA", "LA"),
        ("1", "L"),
        ("P", "RGB"),
        ("CMYK", "RGB"),
        ("YCbCr", "RGB"),
        ("F", "F"),
        ("I;16", "I;16"),
    ],
)
def test_a_pil_image_gives_a_pil_image(upscaler, mode, result_mode):
    if mode == "I;16":
        image = Image.fromarray(values(7, 5, dtype=np.uint16))
    elif mode == "F":
        image = Image.fromarray(values(7, 5, dtype=np.float32))
    else:
        image = Image.fromarray(values(7, 5, 4)).convert("RGB" if mode in ("P", "CMYK", "YCbCr") else mode)
        image = image.convert(mode)
    image.info["icc_profile"] = b"profile"
    result = upscaler(image)
    kept = {} if mode in ("CMYK", "YCbCr") else {"icc_profile": b"profile"}  # which are no channels of the result
    assert (result.mode, result.size, result.info) == (result_mode, (10, 14), kept)


@pytest.mark.parametrize(("mode", "transparent"), [("L", 7), ("RGB", (1, 2, 3))])
def test_a_transparent_colour_becomes_alpha(upscaler, mode, transparent):
    image = Image.new(mode, (5, 7), transparent)
    image.info["transparency"] = transparent
    assert np.asarray(upscaler(image))[:, :, -1].max() == 0


def test_grey_multiplied_by_alpha_is_grey_with_alpha(upscaler):
    assert upscaler(Image.new("LA", (5, 7), (100, 200)).convert("La")).mode == "LA"


def test_a_transparent_palette_keeps_its_transparency(upscaler):
    image = Image.fromarray(values(7, 5, 3)).convert("P")
    image.info["transparency"] = 0
    assert upscaler(image).mode == "RGBA"


def test_a_path_gives_a_float_tensor(upscaler, tmp_path):
    array = values(7, 5, 3)
    Image.fromarray(array).save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        result = upscaler(path)
        assert (result.dtype, result.shape) == (torch.float32, (1, 3, 14, 10))
        wanted = torch.from_numpy(expected(upscaler, array / 255)).permute(2, 0, 1)[None]
        assert_close(result, wanted)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(5, 5), r"expected an image \(1, 3, height, width\) or \(3, height, width\), got \(5, 5\)"),
        (torch.rand(2, 3, 5, 5), r"got \(2, 3, 5, 5\)"),
        (torch.rand(1, 4, 5, 5), r"got \(1, 4, 5, 5\)"),
        (torch.rand(3, 0, 5), r"got \(3, 0, 5\)"),
        (torch.zeros(3, 5, 5, dtype=torch.int64), "expected uint8, uint16 or floating-point values, got torch.int64"),
        (values(3, 5, 5), r"expected an array \(height, width\), .* got \(3, 5, 5\)"),
        (values(5, 0, 3), "expected an array"),
        (values(5), "expected an array"),
        (values(5, 5, 3).astype(np.int32), "expected uint8, uint16 or floating-point values, got torch.int32"),
        (np.array([["a"]]), "expected uint8, uint16 or floating-point values, got <U1"),
        (Image.new("I", (5, 5)), "got mode I"),
        (255 * torch.rand(3, 5, 5), r"expected floating-point values in \[0, 1\], got .*; divide 8-bit values by 255"),
        (values(5, 5, 3).astype(np.float32), r"expected floating-point values in \[0, 1\]"),
        ([1, 2], "expected a path, a PIL image, a numpy array, a tensor or a Picture, got list"),
        (None, "got NoneType"),
    ],
)
def test_anything_else_gets_one_line(upscaler, image, message):
    with pytest.raises(ShapeError, match=message) as error:
        upscaler(image)
    assert "\n" not in str(error.value)
