"""What the values of a file mean: the table "Colours" of docs/formats.md, and descriptions that are bad or contradict.

Colours are judged by lcms (through Pillow) or from the formulas of the standards, never by our own profiles alone.
"""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from tests.images.samples import SRGB, as_picture, as_samples, exif_bytes, loaded_exif, message_of, smooth, stored
from tests.images.test_formats import as_read, cells, ending_of, identity, profiled, recorded, with_pillow
from tests.images.test_profiles import LINEAR, profile

from nlsr.images import ColourSpace, Picture, read, tone_mapped, write
from nlsr.images.colour_space import ADOBE_RGB, space_of_numbers

COLOURS = cells("Colours")
P3, PQ = ColourSpace(12, 13), ColourSpace(9, 16)
P3_CHRM = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
# Linear P3 to linear sRGB, as CSS Color 4 publishes it by way of XYZ.
P3_TO_SRGB = np.array([[1.2249402, -0.2249404, 0.0], [-0.0420570, 1.0420571, 0.0], [-0.0196376, -0.0786361, 1.0982735]])


def png(samples, *chunks):
    """A PNG with chunks before its pixels; a chunk whose kind begins with '>' stands behind them."""
    data = imagecodecs.png_encode(samples)
    start, end = data.index(b"IDAT") - 4, len(data) - 12
    packed = {False: b"", True: b""}
    for kind, content in chunks:
        named = kind.removeprefix(b">") + content
        packed[named[:1] != kind[:1]] += struct.pack(">I", len(content)) + named + struct.pack(">I", zlib.crc32(named))
    return data[:start] + packed[False] + data[start:end] + packed[True] + data[end:]


def chunks_of(path):
    data, position, found = path.read_bytes(), 8, {}
    while position < len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        found[kind] = data[position + 8 : position + 8 + size]
        position += 12 + size
    return found


def chrm(values):
    return b"cHRM", struct.pack(">8I", *(round(1e5 * value) for value in values))


def gama(value):
    return b"gAMA", struct.pack(">I", round(1e5 * value))


def iccp(data):
    return b"iCCP", b"x\0\0" + zlib.compress(data)


def nclx(data, primaries, transfer):
    """A file with other codes in its box of colours."""
    start = data.index(b"colrnclx") + 8
    return data[:start] + struct.pack(">HH", primaries, transfer) + data[start + 4 :]


def avif(samples=None, **options):
    samples = smooth() if samples is None else samples
    return imagecodecs.avif_encode(samples, level=100, pixelformat="444", **options)


def heic(primaries, transfer):
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    codes = {"color_primaries": primaries, "transfer_characteristics": transfer}
    pillow_heif.from_pillow(Image.fromarray(smooth())).save(buffer, quality=95, **codes)
    return buffer.getvalue()


def in_srgb(path):
    """What Pillow and lcms show of a file, by the profile in it."""
    with Image.open(path) as image:
        data, pixels = image.info.get("icc_profile"), image.convert("RGB")
    if data is None:
        return np.asarray(pixels).astype(int)
    target = ImageCms.createProfile("sRGB")
    shown = ImageCms.profileToProfile(pixels, io.BytesIO(data), target, ImageCms.Intent.RELATIVE_COLORIMETRIC)
    return np.asarray(shown).astype(int)


def srgb_of_light(light):
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def srgb_light(samples):
    values = samples / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def gentle():
    """Colours of P3 that lie inside sRGB too, so that no conversion clips."""
    return (smooth() * 0.3 + 90).astype(np.uint8)


def exif_space(space, index=None):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0xA001] = space
    data = exif.tobytes()
    if index is None:
        return data
    exif.get_ifd(0x8769)[0xA005] = {1: index}
    return exif.tobytes()


# Reading


@pytest.mark.parametrize("cell", [c for c in COLOURS if c[1].endswith(" read") and c[2] not in ("–", "")], ids=identity)
def test_descriptions_are_read_as_promised(tmp_path, cell):
    format, name, promise = cell
    assert promise == "kept"
    if name == "profile read":
        if format == "JPEG XL":
            assert as_read(tmp_path, profiled(format)).profile == recorded("profiled.icc")
        else:
            assert as_read(tmp_path, profiled(format)).profile == SRGB
    elif name == "numbers read":
        data = {
            "PNG": lambda: png(smooth(), (b"cICP", b"\x0c\x0d\0\1")),
            "AVIF": lambda: avif(primaries=12, transfer=13),
            "HEIC": lambda: heic(12, 13),
            "JPEG XL": lambda: recorded("p3-gamma.jxl"),
        }[format]()
        if format == "JPEG XL":
            space = as_read(tmp_path, data).space
            assert (space.primaries, space.transfer) == (12, pytest.approx(1.8, abs=1e-4))
            return
        picture = as_read(tmp_path, data)
        assert (picture.space, picture.notes) == (P3, ())
        assert np.abs(as_samples(picture) - smooth()).max() <= 6
    elif name == "gamma read":
        picture = as_read(tmp_path, png(smooth(), gama(1 / 1.8), chrm(P3_CHRM)))
        assert picture.space == ColourSpace(12, pytest.approx(1.8, abs=1e-4))
    else:
        if format == "AVIF":  # which always says numbers too, and they go before
            data = nclx(with_pillow(Image.fromarray(smooth()), format, exif=exif_space(2)), 2, 2)
        elif format == "HEIC":
            pytest.importorskip("pillow_heif")
            data = with_pillow(Image.fromarray(smooth()), format, exif=exif_space(2), save_nclx_profile=False)
        else:
            data = with_pillow(Image.fromarray(smooth()), format, exif=exif_space(2))
        picture = as_read(tmp_path, data)
        assert picture.space == ColourSpace(ADOBE_RGB, 2.19921875)
        assert 0xA001 not in loaded_exif(picture.exif).get_ifd(0x8769)


def test_adobe_rgb_is_told_by_its_index_of_interoperability(tmp_path):
    for name, data in (("a", exif_space(0xFFFF, "R03")), ("b", exif_space(0xFFFF, "R98")), ("c", exif_space(1))):
        Image.fromarray(smooth()).save(tmp_path / f"{name}.jpg", exif=data)
    spaces = [read(tmp_path / f"{name}.jpg").space for name in "abc"]
    assert spaces == [ColourSpace(ADOBE_RGB, 2.19921875), None, ColourSpace()]


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([gama(0.45455)], ColourSpace()),
        ([gama(0.45455), chrm(ColourSpace().chromaticities)], ColourSpace()),
        ([chrm(P3_CHRM)], P3),
        ([gama(0.45455), chrm(P3_CHRM)], ColourSpace(12, 4)),
        ([gama(0.5)], ColourSpace(1, 2.0)),
        ([(b"sRGB", b"\0"), gama(0.8)], ColourSpace()),
        ([(b"cICP", b"\1\x0d\0\1"), (b"sRGB", b"\0")], ColourSpace()),
        ([(b"cICP", b"\x09\x02\0\1")], ColourSpace(9, 13)),
        ([(b"cICP", b"\x02\x02\0\1")], None),
        ([(b"cICP", b"\x02\x02\0\1"), gama(0.5)], ColourSpace(1, 2.0)),
    ],
)
def test_words_of_a_png_go_before_one_another_as_its_standard_says(tmp_path, chunks, expected):
    picture = as_read(tmp_path, png(smooth(), *chunks))
    assert (picture.space, picture.profile, picture.notes) == (expected, None, ())
    assert np.array_equal(as_samples(picture), smooth())


@pytest.mark.parametrize("kind", ["cicp", "gama", "nclx", "heic"])
def test_linear_light_is_encoded_however_it_is_said(tmp_path, kind):
    data = {
        "cicp": lambda: png(smooth(), (b"cICP", b"\x0c\x08\0\1")),
        "gama": lambda: png(smooth(), gama(1), chrm(P3_CHRM)),
        "nclx": lambda: avif(primaries=12, transfer=8, matrix=0),
        "heic": lambda: heic(12, 8),
    }[kind]()
    picture = as_read(tmp_path, data)
    assert picture.notes == ("linear values encoded with the sRGB curve",)
    assert picture.space == P3
    expected = srgb_of_light(smooth() / 255)
    close = 40 if kind == "heic" else 1e-3  # dark steps of a lossy file grow
    assert np.abs(picture.pixels[0].permute(1, 2, 0).numpy() * 255 - expected).max() <= close


def test_narrow_range_of_a_png_is_widened(tmp_path):
    samples = np.array([[[16, 16, 16], [235, 235, 235], [0, 126, 255]]], np.uint8)
    picture = as_read(tmp_path, png(samples, (b"cICP", b"\1\1\0\0")))
    assert picture.notes == ("values of the narrow range of video widened",)
    expected = [[0, 0, 0], [1, 1, 1], [0, 110 / 219, 1]]
    assert np.allclose(picture.pixels[0, :, 0].T.numpy(), expected, atol=1e-6)


# Bad descriptions


GREY_PROFILE = profile(LINEAR["gamma"].replace(b"\1\0\0\0", b"\2\0\0\0"), b"GRAY")
UNKNOWN = "cICP says primaries 77 and transfer 99, reserved or unknown: not followed"
FLAT = "primaries that make no triangle around white: not followed"
CMYK_HEADER = SRGB[:16] + b"CMYK" + SRGB[20:]


@pytest.mark.parametrize(
    ("chunks", "space", "note"),
    [
        ([(b"cICP", b"\x03\x0d\0\1"), chrm(P3_CHRM)], P3, "cICP says primaries 3, reserved or unknown: not followed"),
        ([(b"cICP", b"\x4d\x63\0\1")], None, UNKNOWN),
        ([(b"cICP", b"\x0c\x0d\1\1")], None, "cICP is damaged or not of RGB: not followed"),
        ([(b"cICP", b"\x0c")], None, "cICP is damaged or not of RGB: not followed"),
        ([gama(0)], None, "gamma of 1/1e+14 makes no sense: not followed"),
        ([gama(0), chrm(P3_CHRM)], P3, "gamma of 1/1e+14 makes no sense: not followed"),
        ([chrm([0] * 8)], None, FLAT),
        ([chrm([0.3, 0.3, 0.4, 0.4, 0.4, 0.4, 0.1, 0.1])], None, FLAT),
        ([chrm([0.7, 0.3, *P3_CHRM[2:]])], None, FLAT),
        ([iccp(SRGB[:300])], None, "ICC profile is cut short: dropped"),
        ([iccp(b"x" * 500)], None, "ICC profile is damaged: dropped"),
        ([(b"iCCP", b"x\0\0nothing packed")], None, "ICC profile is damaged: dropped"),
        ([iccp(CMYK_HEADER), chrm(P3_CHRM)], P3, "ICC profile is for CMYK and not for RGB: dropped"),
        ([iccp(SRGB), (b"cICP", b"\x0c\x0d\0\1")], P3, "cICP and ICC profile say different colours: cICP followed"),
        ([iccp(SRGB), (b"cICP", b"\1\x0d\0\1")], ColourSpace(), None),
    ],
)  # fmt: skip
def test_a_bad_description_costs_a_note_and_no_pixel(tmp_path, chunks, space, note):
    picture = as_read(tmp_path, png(smooth(), *chunks))
    assert (picture.space, picture.profile) == (space, None)
    assert picture.notes == ((note,) if note else ())
    assert np.array_equal(as_samples(picture), smooth())


def test_in_avif_a_profile_goes_before_numbers_that_contradict_it(tmp_path):
    write(tmp_path / "a.avif", as_picture(smooth(), profile=SRGB))
    data = (tmp_path / "a.avif").read_bytes()
    assert as_read(tmp_path, data).notes == ()
    picture = as_read(tmp_path, nclx(data, 9, 16))
    assert (picture.profile, picture.space) == (SRGB, None)
    assert picture.notes == ("ICC profile and nclx say different colours: ICC profile followed",)


def test_unknown_codes_of_an_avif_are_noted(tmp_path):
    picture = as_read(tmp_path, nclx(avif(), 77, 13))
    assert (picture.space, len(picture.notes)) == (None, 1)
    assert "nclx says primaries 77" in picture.notes[0]


def test_a_grey_profile_on_rgb_pixels_becomes_one_of_rgb_with_the_same_tones(tmp_path):
    grey = np.repeat(stored((4, 5), 1), 3, axis=2)
    write(tmp_path / "a.png", as_read(tmp_path, png(grey, iccp(GREY_PROFILE))))
    assert np.abs(in_srgb(tmp_path / "a.png") - srgb_of_light((grey / 255) ** 2)).max() <= 1.5


# Writing


@pytest.mark.parametrize("cell", [c for c in COLOURS if c[1] in ("Display P3", "gamma 1.8") and c[2]], ids=identity)
def test_colours_are_written_as_promised(tmp_path, cell):
    format, name, promise = cell
    space = P3 if name == "Display P3" else space_of_numbers(None, 1.8)
    light = srgb_light(gentle()) @ P3_TO_SRGB.T if name == "Display P3" else (gentle() / 255) ** 1.8
    path = tmp_path / f"a.{ending_of(format)}"
    notes = write(path, as_picture(gentle(), space=space))
    assert len(notes) == (promise == "converted")
    again = read(path)
    if promise == "numbers":
        assert (again.space, again.profile) == (space, None)
        if format in ("AVIF", "JPEG XL"):  # as Pillow shows no numbers
            assert format != "AVIF" or b"colrnclx" + struct.pack(">HH", 12, 13) in path.read_bytes()
            assert np.abs(as_samples(again) - gentle()).mean() < 1.5
            return
    else:
        assert (again.profile is None) == (promise == "converted")
    if format == "PNG":
        chunks = chunks_of(path)
        assert (b"cICP" in chunks) == (name == "Display P3")
        assert {b"iCCP", b"gAMA", b"cHRM"} <= chunks.keys()
    assert np.abs(in_srgb(path) - srgb_of_light(light)).mean() < 1.5


@pytest.mark.parametrize("cell", [c for c in COLOURS if c[1] == "PQ" and c[2]], ids=identity)
def test_high_dynamic_range_is_written_as_promised(tmp_path, cell):
    format, _, promise = cell
    samples = smooth() * np.uint16(257)
    path = tmp_path / f"a.{ending_of(format)}"
    if promise == "refused":
        message = message_of(write, path, as_picture(samples, space=PQ))
        assert "cannot say what BT.2020, PQ values mean" in message
        assert "`tone_map`" in message
        return
    assert write(path, as_picture(samples, space=PQ)) == ()
    again = read(path)
    assert (again.space, again.depth) == (PQ, 16)
    assert np.abs(as_samples(again, 65535) - samples.astype(int)).max() <= (12 * 257 if format == "AVIF" else 0)
    if format == "AVIF":
        assert b"colrnclx" + struct.pack(">HHH", 9, 16, 9) in path.read_bytes()
    elif format == "PNG":
        assert chunks_of(path)[b"cICP"] == b"\x09\x10\0\1"
        assert b"iCCP" not in chunks_of(path)


@pytest.mark.parametrize("cell", [c for c in COLOURS if c[1] == "profile written" and c[2]], ids=identity)
def test_profiles_are_written_as_promised(tmp_path, cell):
    format, _, promise = cell
    path = tmp_path / f"a.{ending_of(format)}"
    gamma = profile(b"curv" + bytes(4) + b"\0\0\0\1\1\xcd\0\0")
    notes = write(path, as_picture(gentle(), profile=gamma))
    if promise == "converted":
        assert notes == ("no place in BMP for what colours mean: converted to sRGB",)
    else:
        assert read(path).profile == gamma
    if format == "JPEG XL":  # which Pillow does not read
        return
    with Image.open(path) as image:
        assert image.info.get("icc_profile") == (gamma if promise == "kept" else None)
    assert np.abs(in_srgb(path) - srgb_of_light((gentle() / 255) ** (461 / 256))).mean() < 1.5


def test_all_columns_of_colours_are_tried():
    written = {"profile written", "Display P3", "gamma 1.8", "PQ"}
    assert {name for _, name, _ in COLOURS} == written | {f"{n} read" for n in ("profile", "numbers", "gamma", "EXIF")}


@pytest.mark.parametrize(
    "space",
    [
        ColourSpace(12, 13),
        ColourSpace(9, 1),
        ColourSpace(9, 13),
        ColourSpace(11, 17),
        ColourSpace(6, 6),
        ColourSpace(1, 1.8),
        ColourSpace(1, 4),
        ColourSpace(5, 5),
        ColourSpace(1, 7),
        ColourSpace(ADOBE_RGB, 2.19921875),
    ],
    ids=str,
)
def test_profiles_that_are_made_show_the_colours_of_the_standards(tmp_path, space):
    write(tmp_path / "a.jpg", as_picture(gentle(), space=space), quality=100)
    with Image.open(tmp_path / "a.jpg") as image:
        stored_values = np.asarray(image) / 255
    light = CURVES[space.transfer](stored_values) @ to_srgb(space.chromaticities).T
    assert np.abs(in_srgb(tmp_path / "a.jpg") - srgb_of_light(light)).max() <= 1.6


def bt709_light(v):
    return np.where(v < 0.081, v / 4.5, ((v + 0.099) / 1.099) ** (1 / 0.45))


CURVES = {
    1: bt709_light,
    6: bt709_light,
    4: lambda v: v**2.2,
    5: lambda v: v**2.8,
    7: lambda v: np.where(v < 0.0913, v / 4, ((v + 0.1115) / 1.1115) ** (1 / 0.45)),
    13: lambda v: srgb_light(255 * v),
    17: lambda v: v**2.6,
    1.8: lambda v: v**1.8,
    2.19921875: lambda v: v**2.19921875,
}


def to_srgb(chromaticities):
    """Linear light of these primaries in that of sRGB, whites adapted by Bradford; from the textbook."""

    def matrix(values):
        white, *primaries = np.reshape(values, (4, 2))
        xyz = [np.array([x / y, 1, (1 - x - y) / y]) for x, y in (white, *primaries)]
        columns = np.array(xyz[1:]).T
        return columns * np.linalg.solve(columns, xyz[0]), xyz[0]

    (source, white), (target, d65) = matrix(chromaticities), matrix(ColourSpace().chromaticities)
    adapted = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ d65) / (BRADFORD @ white)) @ BRADFORD
    return np.linalg.inv(target) @ adapted @ source


def test_srgb_that_is_said_is_said_again_in_a_png(tmp_path):
    write(tmp_path / "a.png", as_read(tmp_path, png(smooth(), (b"sRGB", b"\0"))))
    assert b"sRGB" in chunks_of(tmp_path / "a.png")
    write(tmp_path / "b.png", as_read(tmp_path, png(smooth())))
    assert chunks_of(tmp_path / "b.png").keys() == {b"IHDR", b"IDAT", b"IEND"}


def test_grey_keeps_its_curve_in_every_format(tmp_path):
    grey = as_picture(gentle()[:, :, :1].copy(), space=ColourSpace(1, 1.8))
    for ending in ("png", "jpg", "webp", "tif", "avif", "bmp"):
        write(tmp_path / f"a.{ending}", grey)
        if ending == "webp":  # which has no grey
            expected = srgb_of_light((gentle()[:, :, :1] / 255) ** 1.8)
            assert np.abs(in_srgb(tmp_path / "a.webp") - expected).mean() < 1.5
        with Image.open(tmp_path / f"a.{ending}") as image:
            assert (image.info.get("icc_profile", b"")[16:20] == b"GRAY") == (ending not in ("webp", "bmp"))


# Tone mapping


def pq(nits):
    """BT.2100, table 4, from light in cd/m²."""
    powered = (nits / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * powered) / (1 + 2392 / 128 * powered)) ** (2523 / 4096 * 128)


def test_tone_mapping_leaves_what_is_darker_than_paper_and_presses_what_is_brighter():
    nits = np.array([0, 1, 10, 50, 203, 500, 1000, 4000])
    values = torch.from_numpy(pq(nits)).float().expand(1, 3, 1, -1)
    mapped = tone_mapped(Picture(values, depth=16, space=PQ))
    assert mapped.space == ColourSpace(9, 13)
    assert mapped.notes == ("BT.2020, PQ brought to standard range: 4000 cd/m² and 203 are its white now",)
    result = srgb_light(255 * mapped.pixels[0, 0, 0].numpy())
    assert np.allclose(result[:3], nits[:3] / 203, atol=2e-3)
    assert (np.diff(result) > 0).all()
    assert result[-1] == pytest.approx(1, abs=1e-3)
    assert 0.4 < result[4] < 0.8


def test_tone_mapping_of_hlg_shows_its_reference_white_as_bt2408_says():
    # BT.2408: 75 % of HLG is 203 cd/m² on a display of 1000.
    values = torch.tensor([0.0, 0.75]).expand(1, 3, 1, -1)
    mapped = tone_mapped(Picture(values, depth=16, space=ColourSpace(9, 18)))
    assert mapped.pixels[0, :, 0, 1].tolist() == pytest.approx([1, 1, 1], abs=0.01)


def test_a_tone_mapped_picture_can_be_written_anywhere_and_others_are_left_alone(tmp_path):
    picture = as_read(tmp_path, avif(smooth().astype(np.uint16) * 4, bitspersample=10, primaries=9, transfer=16))
    write(tmp_path / "a.jpg", tone_mapped(picture))
    assert read(tmp_path / "a.jpg").profile is not None
    plain = as_picture(smooth(), space=P3)
    assert tone_mapped(plain) is plain


def test_exif_that_is_no_colour_says_none(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", exif=exif_bytes())
    assert read(tmp_path / "a.jpg").space is None
