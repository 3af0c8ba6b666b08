"""Pictures whose values are proportional to light look the same after they were encoded; all others are left alone."""

import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from tests.images.samples import SRGB, smooth

from nlsr.images import read, write

NOTE = "linear values encoded with the sRGB curve"
D50 = (0.9642, 1.0, 0.8249)
PRIMARIES = {"rXYZ": (0.4361, 0.2225, 0.0139), "gXYZ": (0.3851, 0.7169, 0.0971), "bXYZ": (0.1431, 0.0606, 0.7141)}
LINEAR = {
    "identity": b"curv" + bytes(8),
    "gamma": b"curv" + bytes(4) + b"\0\0\0\1\1\0\0\0",
    "table": struct.pack(">4s4xI256H", b"curv", 256, *(257 * i for i in range(256))),
    "parametric": b"para" + bytes(8) + b"\0\1\0\0",
}
OTHERS = {
    "gamma 2.2": b"curv" + bytes(4) + b"\0\0\0\1\2\x33\0\0",
    "table": struct.pack(">4s4xI256H", b"curv", 256, *(round(65535 * (i / 255) ** 2) for i in range(256))),
    "cut": b"curv" + b"\0\0\0\0\0\0\1\0" + bytes(20),
}


def fixed(*values):
    return struct.pack(f">{len(values)}i", *(round(65536 * value) for value in values))


def profile(curve, space=b"RGB ", version=2, **more):
    """The smallest profile with these tone curves, assembled by the book."""
    text = b"Linear\0"
    tags = {"desc": struct.pack(">4s4xI", b"desc", len(text)) + text + bytes(78), "cprt": b"text" + bytes(4) + b"-\0"}
    tags["wtpt"] = b"XYZ " + bytes(4) + fixed(*D50)
    if space == b"RGB ":
        tags |= {name: b"XYZ " + bytes(4) + fixed(*values) for name, values in PRIMARIES.items()}
        tags |= {"rTRC": curve, "gTRC": curve, "bTRC": curve}
    else:
        tags |= {"kTRC": curve}
    tags |= more
    table, data, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name.encode(), start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    header = struct.pack(">I4xBB2x", start + len(data), version, 0x40) + b"mntr" + space + b"XYZ " + bytes(12)
    header = (header + b"acsp").ljust(68, b"\0") + fixed(*D50)
    return header.ljust(128, b"\0") + table + data


def in_srgb(samples, profile, space="rgb"):
    """What a colour management shows, 16 bits, computed step by step instead of by a table."""
    options = {"colorspace": space, "outcolorspace": "rgb", "intent": 1, "flags": 0x100}
    return imagecodecs.cms_transform(samples, profile, imagecodecs.cms_profile("srgb"), **options).astype(int)


@pytest.mark.parametrize("version", [2, 4])
@pytest.mark.parametrize("curve", LINEAR.values(), ids=LINEAR)
def test_linear_rgb_is_encoded_and_its_colours_stay(tmp_path, curve, version):
    samples = smooth() * np.uint16(257)
    linear = profile(curve, version=version)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", iccprofile=linear)
    picture = read(tmp_path / "a.tif")
    assert picture.notes == (NOTE,)
    light = samples / 65535
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(picture.pixels[0].permute(1, 2, 0).numpy() - encoded).max() < 1e-6
    write(tmp_path / "b.png", picture)
    again = read(tmp_path / "b.png")
    assert (again.notes, again.depth) == ((), 16)
    written = imagecodecs.png_decode((tmp_path / "b.png").read_bytes())
    assert np.abs(in_srgb(written, again.profile) - in_srgb(samples, linear)).max() <= 40  # of 65535


def test_no_other_words_of_the_profile_call_the_encoded_values_linear(tmp_path):
    cicp = b"cicp" + bytes(4) + bytes([1, 8, 0, 1])  # BT.709, linear, RGB, full range
    Image.fromarray(smooth()).save(tmp_path / "a.png", icc_profile=profile(LINEAR["identity"], version=4, cicp=cicp))
    picture = read(tmp_path / "a.png")
    assert picture.notes == (NOTE,)
    assert b"cicp" not in picture.profile


def test_linear_grey_is_encoded_and_stays_grey(tmp_path):
    samples = smooth()[:, :, 0] * np.uint16(257)
    Image.fromarray(samples).save(tmp_path / "a.png", icc_profile=profile(LINEAR["gamma"], b"GRAY"))
    picture = read(tmp_path / "a.png")
    assert (picture.notes, picture.grey) == ((NOTE,), True)
    write(tmp_path / "b.png", picture)
    before = in_srgb(samples, profile(LINEAR["gamma"], b"GRAY"), "gray")
    written = imagecodecs.png_decode((tmp_path / "b.png").read_bytes())
    assert np.abs(in_srgb(written, read(tmp_path / "b.png").profile, "gray") - before).max() <= 40  # of 65535


def test_alpha_is_no_light(tmp_path):
    samples = np.full((3, 4, 4), 51, np.uint8)
    Image.fromarray(samples).save(tmp_path / "a.png", icc_profile=profile(LINEAR["identity"]))
    picture = read(tmp_path / "a.png")
    assert picture.alpha.unique().tolist() == pytest.approx([0.2])
    assert picture.pixels.unique().tolist() == pytest.approx([1.055 * 0.2 ** (1 / 2.4) - 0.055])


@pytest.mark.parametrize(
    "other",
    [
        *(profile(curve) for curve in OTHERS.values()),
        profile(LINEAR["identity"], A2B0=b"mft2" + bytes(60)),
        SRGB,
    ],
)
def test_other_profiles_are_kept_with_the_values(tmp_path, other):
    Image.fromarray(smooth()).save(tmp_path / "a.png", icc_profile=other)
    picture = read(tmp_path / "a.png")
    assert picture.profile == other
    assert picture.notes == ()
    assert np.array_equal(picture.pixels[0].mul(255).round().permute(1, 2, 0).numpy(), smooth())
