"""Folders of high-res images become aligned pairs of 8-bit values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nlsr.errors import ImageError, ShapeError, UsageError
from nlsr.evaluate import PairFolder, modcrop
from nlsr.images import resize


def pixels(height: int, width: int, channels: int = 3, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def save(path: Path, array: np.ndarray) -> None:
    Image.fromarray(array.squeeze()).save(path)


@pytest.mark.parametrize(("height", "width"), [(23, 31), (24, 12), (4, 7)])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_pair_is_the_top_left_and_its_8_bit_resize(tmp_path: Path, height: int, width: int, scale: int) -> None:
    array = pixels(height, width)
    save(tmp_path / "odd.png", array)
    (pair,) = PairFolder(tmp_path, scale=scale)

    cropped = torch.from_numpy(array[: height // scale * scale, : width // scale * scale])
    cropped = cropped.movedim(-1, 0)[None]
    assert pair.name == "odd.png"
    assert pair.high_res.dtype == pair.low_res.dtype == torch.float32
    assert torch.equal(pair.high_res, cropped.float() / 255)
    assert torch.equal(pair.low_res, resize(cropped, scale=1 / scale).float() / 255)


def test_modcrop_keeps_the_top_left_corner() -> None:
    image = torch.arange(2 * 7 * 11).view(2, 7, 11)
    assert torch.equal(modcrop(image, 3), image[:, :6, :9])


def test_grey_files_are_repeated_to_rgb(tmp_path: Path) -> None:
    array = pixels(9, 10, 1)
    save(tmp_path / "grey.png", array)
    (pair,) = PairFolder(tmp_path, scale=1)
    expected = torch.from_numpy(array).movedim(-1, 0)[None].float() / 255
    assert torch.equal(pair.high_res, expected.expand(1, 3, 9, 10))


def test_16_bit_files_are_rounded_to_8_bits(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (9, 10)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    (pair,) = PairFolder(tmp_path, scale=1)
    expected = torch.from_numpy(np.rint(deep / 257)).float() / 255
    assert torch.equal(pair.high_res, expected.expand(1, 3, 9, 10))


def test_images_come_by_name_and_other_files_do_not_count(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.bmp", "c.tif"):
        save(tmp_path / name, pixels(8, 8))
    for name in ("README.md", "._a.png", "d.txt"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "more.png").mkdir()
    folder = PairFolder(tmp_path, scale=2)
    assert [pair.name for pair in folder] == ["a.bmp", "b.PNG", "c.tif"]
    assert len(folder) == 3


def test_images_that_cannot_be_read_still_count(tmp_path: Path) -> None:
    (tmp_path / "photo.heic").write_bytes(b"some format we do not read")
    folder = PairFolder(tmp_path, scale=2)
    with pytest.raises(ImageError, match=r"photo\.heic"):
        folder[0]


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nothing: .*; expected a folder of high-res images"):
        PairFolder(tmp_path / "nothing", scale=2)


def test_file_in_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "photo.png", pixels(8, 8))
    with pytest.raises(ImageError, match=r"photo\.png: .*; expected a folder of high-res images"):
        PairFolder(tmp_path / "photo.png", scale=2)


def test_folder_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no image")
    with pytest.raises(ImageError, match="no image in this folder"):
        PairFolder(tmp_path, scale=2)


@pytest.mark.parametrize("scale", [0, -2])
def test_scale_below_one_is_an_error(tmp_path: Path, scale: int) -> None:
    with pytest.raises(UsageError, match=f"expected a scale of 1 or more, got {scale}"):
        PairFolder(tmp_path, scale=scale)


def test_image_smaller_than_the_scale_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "thin.png", pixels(3, 40))
    with pytest.raises(ShapeError, match="expected an image of 4×4 pixels or more at scale 4, got 40×3"):
        PairFolder(tmp_path, scale=4)[0]


def test_unreadable_image_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not an image")
    folder = PairFolder(tmp_path, scale=2)
    with pytest.raises(ImageError, match=r"broken\.png"):
        folder[0]
