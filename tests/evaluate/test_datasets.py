"""Folders of high-res images become aligned pairs of 8-bit values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nlsr.errors import ImageError, ShapeError, UsageError
from nlsr.evaluate import PairFolder, modcrop
from nlsr.evaluate.datasets import data_set_name
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


@pytest.fixture
def two_folders(tmp_path: Path) -> tuple[Path, Path]:
    """High-res images a and b of 24 x 32 with a remainder, and an empty folder."""
    high_res, low_res = tmp_path / "HR", tmp_path / "LR"
    for folder in (high_res, low_res):
        folder.mkdir()
    for seed, name in enumerate(("a.png", "b.png")):
        save(high_res / name, pixels(26, 35, seed=seed))
    return high_res, low_res


NAMES = ["{}.png", "{}_x4.png", "{}x4.png", "{}_LRBI_x4.png", "{}_SRF_4_LR.bmp", "{}_LR_x4.png", "{}-x4.png"]


@pytest.mark.parametrize("name", NAMES)
def test_low_res_files_are_found_by_their_published_names(two_folders: tuple[Path, Path], name: str) -> None:
    high_res, low_res = two_folders
    arrays = {stem: pixels(6, 8, seed=seed) for seed, stem in enumerate("ab", 7)}
    for stem, array in arrays.items():
        save(low_res / name.format(stem), array)
    folder = PairFolder(high_res, scale=4, low_res=low_res)
    assert folder.unpaired == []
    for pair in folder:
        expected = torch.from_numpy(arrays[Path(pair.name).stem]).movedim(-1, 0)[None]
        assert torch.equal(pair.low_res, expected.float() / 255)
        assert pair.high_res.shape == (1, 3, 24, 32)


def test_high_res_files_may_carry_the_scale_too(tmp_path: Path, two_folders: tuple[Path, Path]) -> None:
    high_res, low_res = two_folders
    for path in high_res.iterdir():
        path.rename(path.with_name(f"{path.stem}_HR_x4.png"))
    for stem in "ab":
        save(low_res / f"{stem}_LRBI_x4.png", pixels(6, 8))
    folder = PairFolder(high_res, scale=4, low_res=low_res)
    assert [pair.name for pair in folder] == ["a_HR_x4.png", "b_HR_x4.png"]
    assert folder.unpaired == []


def test_an_image_whose_own_name_ends_like_a_scale_is_itself(tmp_path: Path, two_folders: tuple[Path, Path]) -> None:
    high_res, low_res = two_folders
    for name in ("box2.png", "c_x2.png"):
        save(high_res / name, pixels(24, 32))
    for name in ("a.png", "b.png", "box2_x4.png", "c_x2.png"):
        save(low_res / name, pixels(6, 8))
    folder = PairFolder(high_res, scale=4, low_res=low_res)
    assert [path.name for path in folder.files(2)] == ["box2.png", "box2_x4.png"]
    assert [path.name for path in folder.files(3)] == ["c_x2.png", "c_x2.png"]
    assert folder.unpaired == []


def test_low_res_files_of_other_scales_are_left_alone(two_folders: tuple[Path, Path]) -> None:
    high_res, low_res = two_folders
    for scale, size in ((2, (12, 16)), (4, (6, 8))):
        for stem in "ab":
            save(low_res / f"{stem}x{scale}.png", pixels(*size))
    for scale, name in ((2, "ax2.png"), (4, "ax4.png")):
        folder = PairFolder(high_res, scale=scale, low_res=low_res)
        assert folder.files(0)[1].name == name
        assert folder.unpaired == []


def test_a_missing_a_doubled_and_an_odd_low_res_file_are_named(two_folders: tuple[Path, Path]) -> None:
    high_res, low_res = two_folders
    save(low_res / "c.png", pixels(6, 8))
    folder = PairFolder(high_res, scale=4, low_res=low_res)
    with pytest.raises(
        ImageError, match=r"LR: no low-res image for a\.png; expected a\.png, a_x4\.png, ax4\.png or a_LRBI"
    ):
        folder[0]
    assert [path.name for path in folder.unpaired] == ["c.png"]
    for name in ("a.png", "a.bmp"):
        save(low_res / name, pixels(6, 8))
    with pytest.raises(ImageError, match=r"a\.bmp, a\.png all belong to a\.png; leave one"):
        PairFolder(high_res, scale=4, low_res=low_res)[0]


def test_a_low_res_image_of_another_size_is_an_error(two_folders: tuple[Path, Path]) -> None:
    high_res, low_res = two_folders
    save(low_res / "ax4.png", pixels(6, 9))
    folder = PairFolder(high_res, scale=4, low_res=low_res)
    with pytest.raises(ShapeError, match=r"ax4\.png: expected a low-res image of 8×6 at scale 4, got 9×6"):
        folder[0]


def test_grey_files_say_so(tmp_path: Path) -> None:
    save(tmp_path / "a_grey.png", pixels(8, 8, 1))
    save(tmp_path / "b_colour.png", pixels(8, 8))
    assert [pair.grey for pair in PairFolder(tmp_path, scale=2)] == [True, False]


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Set5", "Set5"),
        ("Set5/HR", "Set5"),
        ("Urban100/image_SRF_4", "Urban100"),
        ("B100/GTmod12", "B100"),
        ("HRx", "HRx"),
    ],
)
def test_a_data_set_has_the_name_of_the_folder_that_says_something(tmp_path: Path, folder: str, name: str) -> None:
    assert data_set_name(tmp_path / folder) == name


def test_colours_under_transparent_pixels_are_those_of_visible_ones(tmp_path):
    samples = np.full((8, 8, 4), (200, 100, 50, 255), np.uint8)
    samples[:, 4:] = 0  # black and transparent, as files have it
    Image.fromarray(samples).save(tmp_path / "a.png")
    pair = PairFolder(tmp_path, scale=2)[0]
    for image in (pair.high_res, pair.low_res):
        assert image.mul(255).round().amin((0, 2, 3)).tolist() == [200, 100, 50]
