"""Image files: what is read is what was stored, what is written reads back, and every failure is one line.

All files are made here, by libraries other than the one under test where there is one.
"""

import dataclasses
import importlib.util
import io
import os
import resource
import stat
import sys
import threading
import warnings
import zlib
from importlib.util import find_spec
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from tests.images.samples import (
    LAYOUTS,
    SRGB,
    XMP,
    as_picture,
    as_samples,
    cmyk_profile,
    exif_bytes,
    loaded_exif,
    message_of,
    smooth,
    stored,
)

from nlsr.errors import ImageError, ShapeError, UsageError
from nlsr.extras import installing
from nlsr.files import is_unfinished
from nlsr.images import ENDINGS, Picture, format_named, read, without_metadata, write

SIZES = [(1, 1), (5, 7), (33, 1), (300, 1501)]  # the last takes several bands


# Reading and writing every value


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_lossless_round_trip_changes_no_value(tmp_path, ending, channels, dtype, size):
    samples = stored(size, channels, dtype)
    first, second = tmp_path / f"first.{ending}", tmp_path / f"second.{ending}"
    write(first, as_picture(samples))
    foreign = imagecodecs.png_decode(first.read_bytes()) if ending == "png" else tifffile.imread(first)
    assert np.array_equal(foreign.reshape(samples.shape), samples)
    picture = read(first)
    assert picture.pixels.dtype == torch.float32
    assert (picture.depth, picture.grey) == (8 * samples.itemsize, channels < 3)
    assert np.array_equal(as_samples(picture, np.iinfo(dtype).max), samples)
    write(second, picture)
    assert second.read_bytes() == first.read_bytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", LAYOUTS.values(), ids=LAYOUTS)
def test_files_of_other_writers_are_read_exactly(tmp_path, channels, dtype):
    samples = stored((21, 34), channels, dtype)
    flat = samples[:, :, 0].copy() if channels == 1 else samples
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(flat))
    photometric = "minisblack" if channels < 3 else "rgb"
    extra = ["unassalpha"] if channels in (2, 4) else None
    kinds = {
        "plain": {},
        "zlib": {"compression": "zlib", "predictor": True},
        "big": {"bigtiff": True, "byteorder": ">"},
    }
    for name, options in kinds.items():
        planar = {"planarconfig": "contig"} if channels > 1 else {}
        tifffile.imwrite(
            tmp_path / f"{name}.tif", flat, photometric=photometric, extrasamples=extra, **planar, **options
        )
    for path in tmp_path.iterdir():
        assert np.array_equal(as_samples(read(path), np.iinfo(dtype).max), samples), path.name


def test_transparent_colour_of_a_16_bit_png_becomes_alpha(tmp_path):
    samples = stored((6, 5), 3, np.uint16)
    data = imagecodecs.png_encode(samples)
    start = data.index(b"IDAT") - 4
    content = b"tRNS" + samples[2, 3].astype(">u2").tobytes()
    chunk = (6).to_bytes(4, "big") + content + zlib.crc32(content).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data[:start] + chunk + data[start:])
    alpha = read(tmp_path / "a.png").alpha
    assert alpha is not None
    assert (alpha == 0).nonzero().tolist() == [[0, 0, 2, 3]]


def test_bmp_round_trip_changes_no_value(tmp_path):
    for channels in (1, 3):
        samples = stored((5, 7), channels)
        write(tmp_path / f"{channels}.bmp", as_picture(samples))
        assert np.array_equal(as_samples(read(tmp_path / f"{channels}.bmp")), samples)


@pytest.mark.parametrize(("ending", "tolerance"), [("jpg", 6), ("webp", 12), ("avif", 8), ("JPEG", 6)])
def test_lossy_formats_stay_close(tmp_path, ending, tolerance):
    write(tmp_path / f"a.{ending}", as_picture(smooth()))
    assert np.abs(as_samples(read(tmp_path / f"a.{ending}")) - smooth()).max() <= tolerance


@pytest.mark.parametrize("ending", ["jpg", "avif"])
def test_colours_keep_their_full_resolution_unless_low_quality_is_asked_for(tmp_path, ending):
    samples = np.zeros((16, 16, 3), np.uint8)
    samples[:, ::2, 0], samples[:, 1::2, 2] = 200, 200  # red and blue columns
    difference = {}
    for quality in (None, 60):
        write(tmp_path / f"{quality}.{ending}", as_picture(samples), quality=quality)
        difference[quality] = np.abs(as_samples(read(tmp_path / f"{quality}.{ending}")) - samples).max()
    assert difference[None] < 30
    assert difference[60] > 60


def test_quality_100_makes_webp_lossless_with_alpha(tmp_path):
    samples = stored((9, 11), 4)
    write(tmp_path / "a.webp", as_picture(samples), quality=100)
    assert np.array_equal(as_samples(read(tmp_path / "a.webp")), samples)


@pytest.mark.parametrize("ending", ["jpg", "webp", "avif"])
def test_lower_quality_makes_a_smaller_file(tmp_path, ending):
    for quality in (30, 90):
        write(tmp_path / f"{quality}.{ending}", as_picture(stored((64, 64), 3)), quality=quality)
    assert (tmp_path / f"30.{ending}").stat().st_size < (tmp_path / f"90.{ending}").stat().st_size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_float_pixels_are_clipped_and_rounded_to_nearest(tmp_path, dtype):
    values = torch.tensor([-0.5, 0.0, 0.25, 1.0, 1.5], dtype=dtype).expand(1, 3, 2, 5)
    write(tmp_path / "a.png", Picture(values))
    assert as_samples(read(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 0, 64, 255, 255]


def test_16_bits_become_8_by_rounding_where_the_format_has_no_more(tmp_path):
    samples = stored((5, 7), 3, np.uint16)
    write(tmp_path / "a.bmp", as_picture(samples))
    assert np.array_equal(as_samples(read(tmp_path / "a.bmp")), np.rint(samples / 257).astype(int))


@pytest.mark.parametrize("grey", [True, False])
def test_float_tiff_round_trip_changes_no_value(tmp_path, grey):
    values = np.random.default_rng(3).random((13, 9) if grey else (13, 9, 3), np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack" if grey else "rgb")
    picture = read(tmp_path / "a.tif")
    assert (picture.depth, picture.grey, picture.notes) == (32, grey, ())
    write(tmp_path / "b.tif", picture)
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif"), values)


def test_float_tiff_beyond_one_is_clipped_with_a_note(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[-1.0, 0.5, 3.0]], np.float32))
    picture = read(tmp_path / "a.tif")
    assert picture.pixels[0, 0, 0].tolist() == [0, 0.5, 1]
    assert picture.notes == ("values -1 to 3 clipped to 0..1",)


def test_a_large_channel_last_integer_tensor_is_written_without_a_copy(tmp_path):
    samples = np.arange(3000 * 4000 * 3, dtype=np.uint32).astype(np.uint8).reshape(3000, 4000, 3)
    samples += np.arange(3000, dtype=np.uint32).astype(np.uint8)[:, None, None]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    write(tmp_path / "a.png", as_picture(samples))
    write(tmp_path / "a.tif", as_picture(samples))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < samples.nbytes * 0.7
    assert np.array_equal(imagecodecs.png_decode((tmp_path / "a.png").read_bytes()), samples)
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), samples)


# What is peculiar to files


@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
def test_one_bit_images_are_grey(tmp_path, ending):
    bits = stored((9, 13), 1)[:, :, 0] > 99
    Image.fromarray(bits).save(tmp_path / f"a.{ending}")
    picture = read(tmp_path / f"a.{ending}")
    assert (picture.grey, picture.depth, picture.alpha) == (True, 8, None)
    assert np.array_equal(as_samples(picture)[:, :, 0], bits * 255)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_whose_zero_is_white_is_inverted(tmp_path, dtype):
    samples = stored((9, 13), 1, dtype)
    tifffile.imwrite(tmp_path / "a.tif", samples[:, :, 0], photometric="miniswhite")
    white = np.iinfo(dtype).max
    assert np.array_equal(as_samples(read(tmp_path / "a.tif"), white), white - samples.astype(int))


def test_a_tiff_of_one_bit_whose_zero_is_white_is_inverted(tmp_path):
    bits = stored((9, 13), 1)[:, :, 0] > 99
    tifffile.imwrite(tmp_path / "plain.tif", bits, photometric="miniswhite")
    Image.fromarray(~bits).save(tmp_path / "fax.tif", compression="group4", tiffinfo={262: 0})
    assert np.array_equal(as_samples(read(tmp_path / "plain.tif"))[:, :, 0], 255 * ~bits)
    with Image.open(tmp_path / "fax.tif") as image:
        expected = np.asarray(image.convert("L"))
    assert np.array_equal(as_samples(read(tmp_path / "fax.tif"))[:, :, 0], expected)


def test_channels_beside_inks_and_palettes_are_not_dropped_in_silence(tmp_path):
    samples = stored((9, 13), 5)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="separated", extrasamples=["unassalpha"])
    assert "extra channels dropped: 1" in read(tmp_path / "a.tif").notes


def test_colours_multiplied_by_alpha_are_divided_again(tmp_path):
    samples = np.array([[[60, 20, 0, 100], [7, 7, 7, 0], [9, 8, 7, 255]]], np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", extrasamples=["assocalpha"])
    assert as_samples(read(tmp_path / "a.tif")).tolist() == [[[153, 51, 0, 100], [0, 0, 0, 0], [9, 8, 7, 255]]]


@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
def test_palettes_become_rgb(tmp_path, ending):
    image = Image.fromarray(smooth()).quantize(17)
    image.save(tmp_path / f"a.{ending}")
    assert np.array_equal(as_samples(read(tmp_path / f"a.{ending}")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("ending", ["png", "tif", "bmp", "gif"])
def test_palettes_of_greys_are_grey(tmp_path, ending):
    indices = stored((9, 13), 1)[:, :, 0]
    image = Image.fromarray(indices)
    image.putpalette(bytes(255 - i for i in range(256) for _ in range(3)))
    image.save(tmp_path / f"a.{ending}")
    picture = read(tmp_path / f"a.{ending}")
    assert picture.grey
    assert np.array_equal(as_samples(picture)[:, :, 0], 255 - indices)


def test_palettes_with_transparency_become_rgb_and_alpha(tmp_path):
    image = Image.fromarray(smooth()).quantize(17)
    image.save(tmp_path / "a.png", transparency=bytes(range(0, 170, 10)))
    alpha = as_samples(read(tmp_path / "a.png"))[:, :, 3]
    assert np.array_equal(alpha, np.asarray(image) * 10)


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_cmyk_without_a_profile_is_converted_plainly_with_a_note(tmp_path, ending):
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    ink.save(tmp_path / f"a.{ending}")
    picture = read(tmp_path / f"a.{ending}")
    assert np.abs(as_samples(picture) - [255, 0, 0]).max() <= 3
    assert picture.notes == ("CMYK without a profile converted to sRGB by plain arithmetic",)


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_cmyk_with_a_profile_is_converted_through_it_and_loses_it(tmp_path, ending):
    Image.new("CMYK", (8, 8), (0, 255, 0, 0)).save(tmp_path / f"a.{ending}", icc_profile=cmyk_profile())
    picture = read(tmp_path / f"a.{ending}")
    assert picture.notes == ("CMYK converted to sRGB through its profile",)
    assert picture.profile is None
    # CIE L* 76.5, a* 60, b* 0, whose red lies outside of sRGB; plain arithmetic gives (255, 0, 255).
    assert np.abs(as_samples(picture) - [255, 139, 192]).max() <= 2


def test_the_black_of_inks_becomes_black(tmp_path):
    """Black point compensation: paper can be no darker than a third of the way to white, a screen can."""
    ramp = np.zeros((8, 16, 4), np.uint8)
    ramp[..., 3] = np.linspace(0, 255, 16)
    profile = cmyk_profile(black=85, kind=b"scnr")
    Image.fromarray(ramp, "CMYK").save(tmp_path / "a.tif", icc_profile=profile)
    grey = read(tmp_path / "a.tif").pixels[0, :, 0].mean(0).mul(255)
    assert grey[0] > 250
    assert grey[-1] < 5
    assert (grey.diff() < 0).all()


def test_cmyk_with_a_useless_profile_is_converted_plainly_and_loses_it(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", icc_profile=SRGB)
    picture = read(tmp_path / "a.jpg")
    assert picture.profile is None
    assert picture.notes == ("CMYK converted to sRGB without its profile, which cannot be used",)


@pytest.mark.parametrize("ending", ["png", "webp", "avif", "tif"])
def test_of_several_frames_the_first_is_taken_with_a_note(tmp_path, ending):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    picture = read(tmp_path / f"a.{ending}")
    assert np.abs(as_samples(picture) - [255, 0, 0]).max() < 6
    assert "first" in picture.notes[0]


def test_of_an_animated_16_bit_png_the_first_frame_is_taken_with_a_note(tmp_path):
    samples = stored((5, 4), 3, np.uint16)
    data = imagecodecs.png_encode(samples)
    control = b"acTL" + (3).to_bytes(4, "big") + bytes(4)
    chunk = (8).to_bytes(4, "big") + control + zlib.crc32(control).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])
    picture = read(tmp_path / "a.png")
    assert np.array_equal(as_samples(picture, 65535), samples)
    assert picture.notes == ("animated file of 3 frames: first frame taken",)


@pytest.mark.parametrize("depth", [8, 16])
def test_cmyk_is_converted_at_its_own_depth(tmp_path, depth):
    dtype = np.dtype(f"uint{depth}")
    white = np.iinfo(dtype).max
    samples = stored((9, 13), 4, dtype)
    for name, options in {"plain": {}, "profiled": {"iccprofile": cmyk_profile()}}.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", samples, photometric="separated", **options)
    inks = samples / white
    expected = (1 - inks[:, :, :3]) * (1 - inks[:, :, 3:])
    plain, profiled = (read(tmp_path / f"{name}.tif") for name in ("plain", "profiled"))
    assert plain.depth == profiled.depth == depth
    assert np.abs(as_samples(plain, white) - expected * white).max() <= 0.51
    levels = len(np.unique(as_samples(profiled, white)))
    assert levels > 256 if depth == 16 else levels <= 256


def test_heic_without_its_extra_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr("nlsr.extras.find_spec", lambda name: None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    message = message_of(read, tmp_path / "a.heic")
    assert message == f"{tmp_path}/a.heic: is HEIC: this needs 'pillow_heif'; install it with: {installing('heif')}"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_orientation_is_applied_and_forgotten(tmp_path, ending, orientation):
    samples = stored((3, 5), 3)
    options = {"lossless": True} if ending == "webp" else {}
    Image.fromarray(samples).save(tmp_path / f"a.{ending}", exif=exif_bytes(orientation), **options)
    turns = {1: [], 2: [0], 3: [3], 4: [1], 5: [5], 6: [4], 7: [6], 8: [2]}[orientation]  # PIL.Image.Transpose
    expected = Image.fromarray(samples)
    for turn in turns:
        expected = expected.transpose(turn)
    picture = read(tmp_path / f"a.{ending}")
    assert np.array_equal(as_samples(picture), np.asarray(expected))
    assert 0x0112 not in loaded_exif(picture.exif)


def test_orientation_in_a_big_endian_bigtiff_is_applied(tmp_path):
    samples = stored((3, 5), 3)
    tag = (0x0112, 3, 1, 6, True)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", bigtiff=True, byteorder=">", extratags=[tag])
    assert np.array_equal(as_samples(read(tmp_path / "a.tif")), np.rot90(samples, -1))


def test_orientation_in_a_16_bit_png_is_applied(tmp_path):
    samples = stored((3, 5), 3, np.uint16)
    write(tmp_path / "a.png", as_picture(samples, exif=exif_bytes(6).removeprefix(b"Exif\0\0")))
    assert np.array_equal(as_samples(read(tmp_path / "a.png"), 65535), np.rot90(samples, -1))


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "avif", "tif"])
def test_profile_exif_and_xmp_are_carried(tmp_path, ending, depth):
    stale = loaded_exif(exif_bytes())
    stale[0x0100] = 4000
    Image.fromarray(smooth()).save(tmp_path / "in.jpg", exif=stale, icc_profile=SRGB, xmp=XMP)
    source = read(tmp_path / "in.jpg")
    pixels = as_picture(stored((8, 9), 3, depth)).pixels
    write(tmp_path / f"out.{ending}", dataclasses.replace(source, pixels=pixels))
    picture = read(tmp_path / f"out.{ending}")
    assert picture.profile == SRGB
    assert picture.xmp == XMP
    exif = loaded_exif(picture.exif)
    assert exif[0x010F] == "Maker"
    assert exif.get_ifd(0x8769) == {0x9003: "2020:01:02 03:04:05", 0x829A: 0.5}  # and no stale size
    assert exif.get_ifd(0x8825)[1] == "N"
    assert 0x0100 not in exif


def test_orientation_and_sizes_in_xmp_are_corrected(tmp_path):
    xmp = b'<a tiff:Orientation="6" exif:PixelXDimension="40" b="c"><tiff:ImageWidth>40</tiff:ImageWidth></a>'
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", xmp=xmp)
    picture = read(tmp_path / "a.jpg")
    assert picture.xmp == b'<a tiff:Orientation="1" b="c"></a>'
    assert picture.pixels.shape == (1, 3, 56, 40)


def test_without_metadata_only_pixels_and_their_profile_stay(tmp_path):
    exif = exif_bytes().removeprefix(b"Exif\0\0")
    write(tmp_path / "a.png", without_metadata(as_picture(smooth(), exif=exif, xmp=XMP, profile=SRGB)))
    picture = read(tmp_path / "a.png")
    assert (picture.exif, picture.xmp, picture.profile) == (None, None, SRGB)
    assert np.array_equal(as_samples(picture), smooth())


def test_thumbnail_is_dropped(tmp_path):
    directory = (0).to_bytes(2, "little") + (14).to_bytes(4, "little")
    thumbnail = (1).to_bytes(2, "little") + b"\x01\x02\x04\0\x01\0\0\0\x05\0\0\0" + bytes(4) + b"THUMBNAIL"
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0" + directory + thumbnail)
    assert b"THUMBNAIL" in (tmp_path / "a.jpg").read_bytes()
    assert read(tmp_path / "a.jpg").exif is None


@pytest.mark.parametrize("damaged", [b"rubbish", b"II*\0\x08\0\0\0\x05\0\x0f\x01", b"MM\0*\0\0\xff\xff"])
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_damaged_exif_does_not_cost_the_picture(tmp_path, ending, damaged):
    Image.fromarray(smooth()).save(tmp_path / f"a.{ending}", exif=b"Exif\0\0" + damaged)
    picture = read(tmp_path / f"a.{ending}")
    assert picture.exif is None
    assert picture.pixels.shape == (1, 3, 40, 56)


def test_a_profile_of_rgb_becomes_one_of_grey_with_the_same_tones(tmp_path):
    samples = stored((5, 4), 1)
    write(tmp_path / "a.png", as_picture(samples, profile=SRGB))
    with Image.open(tmp_path / "a.png") as image:
        profile = image.info["icc_profile"]
    shown = imagecodecs.cms_transform(
        samples[:, :, 0], profile, imagecodecs.cms_profile("srgb"), colorspace="gray", outcolorspace="rgb"
    )
    assert np.abs(shown.astype(int) - samples).max() <= 1
    assert read(tmp_path / "a.png").profile == profile


# Failures of reading


def damaged_files():
    """Name and bytes of files that must be refused, each whole but for one thing."""
    image = Image.fromarray(stored((40, 56), 3))
    deep = stored((40, 56), 3, np.uint16)
    whole = {}
    for name in ("png", "jpeg", "webp", "tiff", "bmp", "avif", "gif"):
        buffer = io.BytesIO()
        image.save(buffer, name, **({"quality": 90} if name == "jpeg" else {}))
        whole[name] = buffer.getvalue()
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", progressive=True)
    whole["progressive.jpeg"] = buffer.getvalue()
    whole["deep.png"] = imagecodecs.png_encode(deep)
    whole["deep.avif"] = imagecodecs.avif_encode(deep >> 6, bitspersample=10)
    if find_spec("pillow_heif"):
        import pillow_heif

        buffer = io.BytesIO()
        pillow_heif.from_pillow(image).save(buffer)
        whole["heic"] = buffer.getvalue()
    for compression in (None, "zlib", "lzw"):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, deep, photometric="rgb", compression=compression)
        whole[f"{compression}.deep.tiff"] = buffer.getvalue()
    cut = {f"cut-{part}-{name}": data[: int(len(data) * part)] for name, data in whole.items() for part in (0.5, 0.9)}
    jpeg = whole["jpeg"]
    filled = {"zero-filled.jpeg": jpeg[: len(jpeg) // 2] + bytes(len(jpeg)), "headless.png": whole["png"][:20]}
    return cut | filled


DAMAGED = damaged_files()


@pytest.mark.parametrize("name", DAMAGED)
def test_cut_files_are_refused_and_never_half_grey(tmp_path, name):
    (tmp_path / name).write_bytes(DAMAGED[name])
    message = message_of(read, tmp_path / name)
    assert name in message
    assert "damaged or truncated" in message


def test_a_wrong_checksum_in_a_16_bit_png_is_refused(tmp_path):
    data = bytearray(imagecodecs.png_encode(stored((5, 4), 3, np.uint16)))
    data[29] ^= 1  # in the checksum of the header
    (tmp_path / "a.png").write_bytes(data)
    assert "checksum of chunk b'IHDR' is wrong" in message_of(read, tmp_path / "a.png")


@pytest.mark.parametrize("place", [26, 27, 28])
def test_an_unknown_method_in_a_16_bit_png_is_refused_and_nothing_is_printed(tmp_path, capfd, place):
    data = bytearray(imagecodecs.png_encode(stored((5, 4), 3, np.uint16)))
    data[place] = 7
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data)
    assert "unknown method" in message_of(read, tmp_path / "a.png")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("change", [99, -99])
def test_a_16_bit_png_may_hold_more_data_than_pixels_but_not_less(tmp_path, capfd, change):
    samples = stored((5, 4), 3, np.uint16)
    data = imagecodecs.png_encode(samples)
    start = data.index(b"IDAT")
    rows = zlib.decompress(data[start + 4 : -16])
    packed = zlib.compress((rows + bytes(99))[: len(rows) + change])
    chunk = len(packed).to_bytes(4, "big") + b"IDAT" + packed + zlib.crc32(b"IDAT" + packed).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data[: start - 4] + chunk + data[-12:])
    if change > 0:
        assert np.array_equal(as_samples(read(tmp_path / "a.png"), 65535), samples)
    else:
        assert "125 bytes of pixels expected, 26 found" in message_of(read, tmp_path / "a.png")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: None, "there is none; check the path"),
        (lambda path: path.mkdir(), "got a directory"),
        (lambda path: path.touch(), "got an empty file"),
        (lambda path: path.write_text("hello"), "got something else"),
        (lambda path: path.write_bytes(b"%PDF-1.7"), "got PDF"),
        (os.mkfifo, "got a device or a pipe"),
        (lambda path: path.symlink_to(path), "cannot be opened"),
    ],
)
def test_what_is_no_image_is_named(tmp_path, make, expected):
    make(tmp_path / "a.png")
    assert expected in message_of(read, tmp_path / "a.png")


def test_a_file_without_permission_is_named(tmp_path):
    path = tmp_path / "a.png"
    write(path, as_picture(smooth()))
    path.chmod(0)
    root = os.geteuid() == 0
    if root:  # which may read everything
        tmp_path.chmod(0o755)
        for folder in tmp_path.parents[:2]:
            folder.chmod(0o755)
        os.seteuid(65534)
    try:
        assert "may not be read; change its permissions" in message_of(read, path)
    finally:
        if root:
            os.seteuid(0)


def test_an_impossible_path_is_one_line(tmp_path):
    assert r"a\x00b" in message_of(read, "a\0b")
    assert "cannot be opened" in message_of(read, tmp_path / ("x" * 300))
    assert r"new\nline\udcff.png" in message_of(read, os.path.join(tmp_path, "new\nline\udcff.png"))


def test_paths_with_newlines_and_undecodable_bytes_work(tmp_path):
    path = os.path.join(tmp_path, "new\nline\udcff.png")
    write(path, as_picture(smooth()))
    assert np.array_equal(as_samples(read(path)), smooth())
    assert r"new\nline\udcff.png: exists already" in message_of(write, path, as_picture(smooth()))


@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if ending not in (".webp", ".avif")])
def test_very_long_pictures_are_read_and_written(tmp_path, ending):
    samples = np.repeat(stored((10, 655), 3), 100, axis=1)
    write(tmp_path / f"a{ending}", as_picture(samples))
    assert read(tmp_path / f"a{ending}").pixels.shape == (1, 3, 10, 65500)


def test_the_content_decides_and_not_the_ending(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", "PNG")
    assert np.array_equal(as_samples(read(tmp_path / "a.jpg")), smooth())


@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if ending != ".avif"])
def test_too_many_pixels_are_refused_unless_allowed(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    write(path, as_picture(stored((30, 40), 3)))
    message = message_of(read, path, max_pixels=1199)
    assert "40×30" in message
    assert "`max_pixels`" in message
    assert read(path, max_pixels=1200).pixels.shape == (1, 3, 30, 40)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    header = b"IHDR" + (60000).to_bytes(4, "big") * 2 + b"\x10\2\0\0\0"
    chunk = (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    data = imagecodecs.png_encode(stored((3, 3), 3, np.uint16))
    (tmp_path / "a.png").write_bytes(data[:8] + chunk + data[33:])
    assert "60000×60000 pixels (3600.0 million), the limit is 200 million" in message_of(read, tmp_path / "a.png")


def test_nan_in_a_float_tiff_is_filled_from_its_neighbours_with_a_note(tmp_path):
    values = np.full((4, 5), 0.25, np.float32)
    values[2, 3], values[0, 0], values[0, 4] = np.nan, np.inf, -np.inf
    tifffile.imwrite(tmp_path / "a.tif", values)
    picture = read(tmp_path / "a.tif")
    assert picture.pixels[0, 0, 2, 3] == pytest.approx(0.25, abs=0.2)
    assert picture.pixels[0, 0, 0].tolist() == [1, 0.25, 0.25, 0.25, 0]
    assert picture.notes == (
        "values -inf to inf clipped to 0..1",
        "values that are no number (NaN): 1, filled from their neighbours",
    )


def test_a_float_tiff_of_nothing_but_nan_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((4, 5), np.nan, np.float32))
    assert "expected numbers, got NaN in every place" in message_of(read, tmp_path / "a.tif")


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits"])
def test_a_tiff_that_announces_more_than_it_stores_is_refused(tmp_path, compression):
    tifffile.imwrite(tmp_path / "a.tif", smooth(), compression=compression, metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tiff.pages[0].tags["ImageWidth"].overwrite(60)
    with open(tmp_path / "a.tif", "ab") as file:
        file.write(bytes(10_000))  # so that reading on would not reach the end
    assert "damaged or truncated" in message_of(read, tmp_path / "a.tif")


def test_a_tiff_with_a_missing_strip_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", smooth(), compression="zlib", rowsperstrip=20, metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        first, _ = tiff.pages[0].databytecounts
        tiff.pages[0].tags["StripByteCounts"].overwrite((first, 0))
    assert "pixels lie beyond the end" in message_of(read, tmp_path / "a.tif")


@pytest.mark.parametrize(("name", "tag"), [("a.dng", 50706), ("renamed.tif", 50706), ("a.NEF", 271)])
def test_the_thumbnail_in_the_raw_data_of_a_camera_is_not_taken_for_the_picture(tmp_path, name, tag):
    """Most raw formats are TIFFs; DNG says so in a tag, and the others by the ending that cameras give them."""
    thumbnail = np.zeros((12, 16, 3), np.uint8)
    what = (tag, "B", 4, bytes([1, 4, 0, 0]), True) if tag == 50706 else (tag, "s", 0, "NIKON", True)
    tifffile.imwrite(tmp_path / name, thumbnail, photometric="rgb", extratags=[what])
    with pytest.raises(ImageError, match="got the raw data of a camera"):
        read(tmp_path / name)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint32])
def test_integers_of_a_tiff_are_read_by_the_range_of_their_type(tmp_path, dtype):
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    values = np.array([[least, least + (most - least) // 4, most]]).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values)
    picture = read(tmp_path / "a.tif")
    assert picture.pixels[0, 0, 0].tolist() == pytest.approx([0, 0.25, 1], abs=0.01 if dtype == np.int8 else 1e-4)
    assert picture.depth == (8 if dtype == np.int8 else 16)
    assert len(picture.notes) == (least < 0)


@pytest.mark.parametrize("dtype", [np.uint64, np.complex64])
def test_tiff_samples_of_other_types_are_refused(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 5), dtype))
    assert "convert it to 16 bits" in message_of(read, tmp_path / "a.tif")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in /proc")
def test_mutated_files_are_read_or_refused_and_nothing_is_printed():
    path = Path(__file__).parents[2] / "benchmarks" / "fuzz_images.py"
    spec = importlib.util.spec_from_file_location("fuzz_images", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    report = module.fuzz(count=400, seed=11)
    assert report["problems"] == []
    assert min(report["picture"], report["refused"]) > 40


def test_reading_in_threads_leaves_warnings_as_they_were(tmp_path):
    write(tmp_path / "a.png", as_picture(stored((50, 60), 3)))
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [read(tmp_path / "a.png") for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


# Failures of writing


@pytest.mark.parametrize(
    ("name", "picture", "expected"),
    [
        ("a.gif", as_picture(smooth()), "expected an ending among .png"),
        ("a", as_picture(smooth()), "got none"),
        ("missing/a.png", as_picture(smooth()), "its folder does not exist"),
        ("file/a.png", as_picture(smooth()), "its folder is not a folder"),
        ("folder.png", as_picture(smooth()), "got a directory"),
        ("there.png", as_picture(smooth()), "exists already"),
        ("x" * 300 + ".png", as_picture(smooth()), "cannot be written"),
        ("a.webp", as_picture(stored((1, 16384), 3)), "WebP holds at most 16383 pixels per side, got 16384×1"),
        ("a.jpg", as_picture(stored((65501, 1), 3)), "JPEG holds at most 65500 pixels per side, got 1×65501"),
        ("a.jpg", as_picture(stored((4, 4), 4)), "JPEG cannot hold transparency"),
        ("a.png", Picture(torch.full((1, 3, 4, 4), torch.nan)), "expected finite values"),
    ],
)
def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path, name, picture, expected):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "there.png").touch()
    before = sorted(tmp_path.iterdir())
    assert expected in message_of(write, tmp_path / name, picture)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    assert "its folder is not writable" in message_of(write, tmp_path / "a.png", as_picture(smooth()))


@pytest.mark.parametrize("ending", ["png", "tif", "bmp", "jpg"])
def test_a_failing_disk_leaves_the_old_file_and_no_other(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        message = message_of(write, path, as_picture(stored((64, 64), 3)), overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot be written (File too large)" in message
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_leaves_is_told_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "unlink", lambda path: None)
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ImageError):
        write(tmp_path / "new\nline.png", as_picture(smooth()))
    (left,) = tmp_path.iterdir()
    assert is_unfinished(left.name)
    assert not any(map(is_unfinished, ("a.png", ".a.png", ".a.part", "a.png.0123abcd.part")))


def test_formats_are_named_as_users_do():
    names = [format_named(name) for name in ("jpg", ".JPEG", "Png", "tif", "webp", "jxl", "JPEG XL")]
    assert names == ["JPEG", "JPEG", "PNG", "TIFF", "WebP", "JPEG XL", "JPEG XL"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interruption_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, step):
    def interrupt(*_):
        raise KeyboardInterrupt

    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(path, as_picture(smooth()), overwrite=True)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_called_by_its_name(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "the disk is full" in message_of(write, tmp_path / "a.png", as_picture(smooth()))
    assert list(tmp_path.iterdir()) == []


def test_the_mode_of_a_new_file_is_that_of_the_umask_and_a_replaced_one_keeps_its_own(tmp_path):
    new, replaced = tmp_path / "a.png", tmp_path / "b.png"
    replaced.write_bytes(b"old")
    replaced.chmod(0o604)
    umask = os.umask(0o027)
    try:
        for path in (new, replaced):
            write(path, as_picture(smooth()), overwrite=True)
    finally:
        os.umask(umask)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (new, replaced)] == [0o640, 0o604]
    assert np.array_equal(as_samples(read(replaced)), smooth())


def test_the_longest_possible_name_can_be_written(tmp_path):
    write(tmp_path / ("ü" * 125 + ".png"), as_picture(smooth()))
    assert len(list(tmp_path.iterdir())) == 1


def test_equal_pictures_give_equal_files(tmp_path):
    for ending in ("png", "jpg", "webp", "tif", "bmp", "avif"):
        size = (300, 1501) if ending in ("png", "tif") else (30, 41)
        for name in "ab":
            write(tmp_path / f"{name}.{ending}", as_picture(stored(size, 3)))
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


@pytest.mark.parametrize("quality", [0, 101])
def test_quality_out_of_range_is_a_wrong_use(tmp_path, quality):
    with pytest.raises(UsageError, match=f"from 1 to 100, got {quality}"):
        write(tmp_path / "a.jpg", as_picture(smooth()), quality=quality)


def test_pixels_of_another_shape_are_refused(tmp_path):
    picture = as_picture(smooth())
    object.__setattr__(picture, "pixels", torch.zeros(2, 3, 4, 4))  # past the check of shapes while tests run
    with pytest.raises(ShapeError, match=r"got \(2, 3, 4, 4\); write images one by one"):
        write(tmp_path / "a.png", picture)


def test_a_heic_of_tiles_is_read_as_one_picture(tmp_path, monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    monkeypatch.setattr(pillow_heif.options, "GRID_TILE_SIZE", 512)
    samples = np.array(Image.fromarray(smooth()).resize((560, 90)))
    pillow_heif.from_pillow(Image.fromarray(samples)).save(tmp_path / "a.heic", quality=95)
    assert b"grid" in (tmp_path / "a.heic").read_bytes()[:2000]
    picture = read(tmp_path / "a.heic")
    assert picture.notes == ()
    assert np.abs(as_samples(picture) - samples).max() <= 12


def test_pictures_of_formats_that_are_not_read_are_called_by_their_names(tmp_path):
    (tmp_path / "a.CR2").write_bytes(b"\x93NUMPY" + bytes(90))
    assert "got the raw data of a camera; convert it" in message_of(read, tmp_path / "a.CR2")
