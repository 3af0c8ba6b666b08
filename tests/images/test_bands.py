"""Writing rows as they come gives the same file as writing the whole, and holds no more than a band."""

import subprocess
import sys

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from tests.images.samples import LAYOUTS, as_picture, message_of, smooth, stored

from nlsr.errors import ImageError, ShapeError, UsageError
from nlsr.images import ENDINGS, Picture, encoder_bytes, read, streams, write, write_bands

FORMATS = list(dict.fromkeys(ENDINGS.values()))


def cut(picture, heights):
    """Bands of these heights, over and over."""
    height, top, bands = picture.pixels.shape[2], 0, []
    while top < height:
        bottom = top + heights[len(bands) % len(heights)]
        alpha = None if picture.alpha is None else picture.alpha[0, :, top:bottom]
        bands.append((picture.pixels[0, :, top:bottom], alpha))
        top = bottom
    return bands


@pytest.mark.parametrize("heights", [[1], [7, 100, 2], [1000]], ids=str)
@pytest.mark.parametrize("channels", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("ending", ["png", "tif", "bmp", "webp"])
def test_bands_give_the_same_file_as_the_whole(tmp_path, ending, channels, heights):
    if ending == "bmp" and channels in (2, 4):
        return
    size = (300, 1501) if ending in ("png", "tif") and channels == 3 else (20, 33)
    picture = as_picture(stored(size, channels))
    write(tmp_path / f"whole.{ending}", picture)
    write_bands(tmp_path / f"bands.{ending}", picture, *size, iter(cut(picture, heights)))
    assert (tmp_path / f"bands.{ending}").read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_reused_band_may_change_once_the_next_one_is_asked_for(tmp_path, ending):
    samples = stored((400, 1001), 3)

    def bands():
        buffer = torch.empty(3, 40, 1001, dtype=torch.uint8)
        for top in range(0, 400, 40):
            buffer.copy_(torch.from_numpy(samples[top : top + 40]).permute(2, 0, 1))
            yield buffer, None
            buffer.zero_()

    write_bands(tmp_path / f"a.{ending}", as_picture(samples), 400, 1001, bands())
    data = (tmp_path / f"a.{ending}").read_bytes()
    foreign = imagecodecs.png_decode(data) if ending == "png" else tifffile.imread(tmp_path / f"a.{ending}")
    assert np.array_equal(foreign, samples)


@pytest.mark.parametrize(("depth", "white"), [(8, 255), (16, 65535)])
def test_float_bands_are_rounded_to_the_depth_of_the_picture(tmp_path, depth, white):
    values = torch.rand(3, 5, 6)
    write_bands(tmp_path / "a.png", Picture(torch.zeros(1, 3, 1, 1), depth=depth), 5, 6, [(values, None)])
    picture = read(tmp_path / "a.png")
    assert picture.depth == depth
    assert torch.equal(picture.pixels[0].mul(white).round(), values.mul(white).round())


def test_bigtiff_is_written_beyond_four_gigabytes(tmp_path, monkeypatch):
    monkeypatch.setattr("nlsr.images.formats.encode_tiff._CLASSIC_LIMIT", 1000)
    samples = stored((300, 901), 3, np.uint16)
    write(tmp_path / "a.tif", as_picture(samples))
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.is_bigtiff
        assert np.array_equal(tiff.asarray(), samples)


# Memory


MEASURE = """
import os, sys, torch
from nlsr.images import Picture, encoder_bytes, write_bands

def status(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

width = 4000
flat = torch.zeros(4, 128, width)  # packed in no time, and in as much memory
smooth = torch.nn.functional.interpolate(torch.rand(1, 4, 16, 100), (128, width), mode="bilinear")[0]
heights = {"PNG": 2560, "TIFF": 2560, "JPEG": 640, "BMP": 640, "WebP": 256, "AVIF": 128, "JPEG XL": 256}
for format, height in heights.items():
    band = flat if height > 1000 else smooth
    alpha = None if format in ("JPEG", "BMP") else band[3:]
    like = Picture(torch.zeros(1, 3, 1, 1), None if alpha is None else torch.zeros(1, 1, 1, 1))
    for rows in (128, height):  # the first loads what is loaded once
        open("/proc/self/clear_refs", "w").write("5")
        before = status("VmRSS")
        bands = ((band[:3], alpha) for _ in range(rows // 128))
        write_bands(os.path.join(sys.argv[1], format), like, rows, width, bands, format=format, overwrite=True)
    print(format, status("VmHWM") - before, encoder_bytes(format, height, width), height * width * 4)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in /proc")
def test_writing_takes_no_more_memory_than_announced(tmp_path):
    command = [sys.executable, "-c", MEASURE, tmp_path]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for line in output.splitlines():
        format, taken, announced, samples = line.rsplit(maxsplit=3)
        assert int(taken) <= int(announced), line
        assert not streams(format) or int(announced) < int(samples), line
    assert len(output.splitlines()) == len(FORMATS)


def test_only_png_and_tiff_need_memory_that_does_not_grow():
    assert {format for format in FORMATS if streams(format)} == {"PNG", "TIFF"}
    for format in FORMATS:
        assert (encoder_bytes(format, 2**20, 1000) > 2 * encoder_bytes(format, 1, 1000)) != streams(format)


# The format


def test_an_explicit_format_goes_before_the_ending(tmp_path):
    write(tmp_path / "a.jpg", as_picture(smooth()), format="png")
    assert (tmp_path / "a.jpg").read_bytes().startswith(b"\x89PNG")
    write(tmp_path / "without", as_picture(smooth()), format="TIFF")
    assert (tmp_path / "without").read_bytes().startswith(b"II*\0")


def test_an_unknown_format_is_a_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="expected a format among PNG, JPEG, WebP, TIFF, BMP, AVIF, JPEG XL, got gif"):
        write(tmp_path / "a.png", as_picture(smooth()), format="gif")


# Failures


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("failure", [RuntimeError("out of memory"), MemoryError(), OSError(5, "x"), ImageError("bad")])
def test_what_computing_raises_passes_unchanged_and_leaves_nothing(tmp_path, format, failure):
    def bands():
        yield torch.rand(3, 4, 5), None
        raise failure

    with pytest.raises(type(failure)) as caught:
        write_bands(tmp_path / "a", Picture(torch.zeros(1, 3, 1, 1)), 8, 5, bands(), format=format)
    assert caught.value is failure
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("bands", "expected"),
    [
        ([(torch.zeros(3, 4, 5), None)], "expected 6 rows in all bands, got 4"),
        ([(torch.zeros(3, 4, 5), None)] * 2, r"\(3, rows, 5\) of at most 2 rows, got \(3, 4, 5\)"),
        ([(torch.zeros(3, 6, 4), None)], r"\(3, rows, 5\) of at most 6 rows, got \(3, 6, 4\)"),
        ([(torch.zeros(1, 6, 5), None)], r"got \(1, 6, 5\)"),
        ([(torch.zeros(3, 6, 5), torch.zeros(1, 6, 5))], "expected bands without alpha"),
        ([(torch.zeros(3, 6, 5, dtype=torch.int32), None)], "got torch.int32"),
    ],
)
def test_bands_that_do_not_fit_are_refused_and_leave_nothing(tmp_path, bands, expected):
    with pytest.raises(ShapeError, match=expected):
        write_bands(tmp_path / "a.png", Picture(torch.zeros(1, 3, 1, 1)), 6, 5, bands)
    assert list(tmp_path.iterdir()) == []


def test_a_band_without_the_picture_s_alpha_is_refused(tmp_path):
    like = Picture(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, 1))
    with pytest.raises(ShapeError, match="expected bands with alpha"):
        write_bands(tmp_path / "a.png", like, 6, 5, [(torch.zeros(3, 6, 5), None)])


def test_nan_in_a_late_band_is_named_and_leaves_nothing(tmp_path):
    picture = Picture(torch.zeros(1, 3, 1, 1))
    bands = [(torch.zeros(3, 6, 5), None), (torch.full((3, 6, 5), torch.nan), None)]
    assert "expected finite values" in message_of(write_bands, tmp_path / "a.png", picture, 12, 5, bands)
    assert list(tmp_path.iterdir()) == []
