"""docs/formats.md: every cell of its tables is tried, on files that other libraries made or read."""

import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, PngImagePlugin
from tests.images.samples import (
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

from nlsr.images import Picture, check_target, read, streams, write

DOCUMENT = Path(__file__).parents[2] / "docs" / "formats.md"
STEPS = 12
"""How far a lossy file may be from what was written, in steps of 8 bits."""


def cells(section):
    """Format, property and promise of each cell of the table in a section of the document."""
    text = DOCUMENT.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [(row[0], name, cell) for row in rows[2:] for name, cell in zip(rows[0][1:], row[1:], strict=True)]


READING, WRITING = cells("Reading"), cells("Writing")


def ending_of(format):
    return {"JPEG XL": "jxl"}.get(format, format.lower())


def identity(cell):
    return "-".join(cell) if isinstance(cell, tuple) else None


# Files of every kind, by other libraries


def rgba():
    """Smooth colours with a smooth alpha that is nowhere zero."""
    return np.concatenate([smooth(), 255 - smooth()[:, :, :1] // 2], 2)


def with_pillow(image, format, **options):
    buffer = io.BytesIO()
    lossless = {
        "JPEG": {"quality": 95, "subsampling": "4:4:4"},
        "WebP": {"lossless": True, "exact": True},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
        "HEIC": {"quality": 95},
    }.get(format, {})
    if format == "PNG" and "xmp" in options:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", options.pop("xmp").decode())
    if format == "TIFF" and "xmp" in options:
        options["tiffinfo"] = {700: options.pop("xmp")}
    if format == "JPEG XL":
        flat = np.asarray(image)
        profile, exif, xmp = (options.pop(name, None) for name in ("icc_profile", "exif", "xmp"))
        data = imagecodecs.jpegxl_encode(flat, lossless=True, usecontainer=False)
        metadata = box(b"Exif", bytes(4), exif.removeprefix(b"Exif\0\0")) if exif else b""
        metadata += box(b"xml ", xmp) if xmp else b""
        assert not profile
        return JXL_START + metadata + box(b"jxlc", data)
    if format == "PNM":
        format = "PPM"
    if format == "JPEG 2000":
        format = "JPEG2000"
    if format == "ICO":
        options["sizes"] = [image.size]
    if format == "HEIC":
        pillow_heif = pytest.importorskip("pillow_heif")
        several = [image, *options.pop("append_images", [])]
        options.pop("save_all", None)
        file = pillow_heif.HeifFile()
        for one in several:
            file.add_from_pillow(one)
        if "icc_profile" in options:
            file[0].info["icc_profile"] = options.pop("icc_profile")
        file.save(buffer, **lossless, **options)
    else:
        image.save(buffer, format.upper(), **lossless, **options)
    return buffer.getvalue()


JXL_START = b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl "


def box(kind, *contents):
    return struct.pack(">I", 8 + len(b"".join(contents))) + kind + b"".join(contents)


def recorded(name):
    """Files that cjxl 0.7 made: of 16 bits, of a turned JPEG, of an animation, with primaries, with a profile."""
    return (Path(__file__).parent / "recorded" / name).read_bytes()


def with_tifffile(samples, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)
    return buffer.getvalue()


def deep(format):
    """File and its samples as 16-bit values."""
    if format == "PNG":
        return imagecodecs.png_encode(stored((9, 7), 4, np.uint16)), stored((9, 7), 4, np.uint16)
    if format == "TIFF":
        samples = stored((9, 7), 4, np.uint16)
        return with_tifffile(samples, photometric="rgb", extrasamples=["unassalpha"]), samples
    if format == "JPEG":
        samples = smooth().astype(np.uint16) * 16 + 7
        return imagecodecs.jpeg8_encode(samples, 99, bitspersample=12, subsampling="444"), samples * (65535 / 4095)
    if format == "JPEG XL":
        return recorded("deep.jxl"), stored((9, 7), 3, np.uint16)
    if format == "PNM":
        samples = stored((9, 7), 3, np.uint16)
        return b"P6\n# deep\n7 9\n65535\n" + samples.astype(">u2").tobytes(), samples
    if format == "JPEG 2000":
        samples = stored((9, 7), 3, np.uint16)
        return imagecodecs.jpeg2k_encode(samples, reversible=True, codecformat="jp2"), samples
    if format == "AVIF":
        samples = rgba().astype(np.uint16) * 4 + 1
        lossless = {"level": 100, "bitspersample": 10, "pixelformat": "444", "matrix": 0}
        return imagecodecs.avif_encode(samples, **lossless), np.rint(samples / 1023 * 65535)
    pillow_heif = pytest.importorskip("pillow_heif")
    samples, buffer = rgba().astype(np.uint16) * 257, io.BytesIO()
    pillow_heif.encode("RGBA;16", (56, 40), samples.tobytes(), buffer, quality=95)
    return buffer.getvalue(), samples


def transparent(format):
    if format == "BMP":
        masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
        header = struct.pack("<IiiHHIIiiII", 108, 56, -40, 1, 32, 3, 0, 0, 0, 0, 0) + masks
        pixels = rgba()[:, :, [2, 1, 0, 3]].tobytes()
        return b"BM" + struct.pack("<IHHI", 122 + len(pixels), 0, 0, 122) + header.ljust(108, b"\0") + pixels, rgba()
    if format == "GIF":
        indices = stored((9, 7), 1)[:, :, 0] % 16
        image = Image.fromarray(indices)
        image.putpalette(bytes(range(48)))
        colours = np.arange(48).reshape(16, 3)[indices]
        data = with_pillow(image, format, transparency=5)
        return data, np.concatenate([colours, 255 * (indices != 5)[:, :, None]], 2)
    if format == "TGA":
        return with_pillow(Image.fromarray(rgba()), format), rgba()
    if format == "AVIF":
        return imagecodecs.avif_encode(rgba(), level=100, pixelformat="444", matrix=0), rgba()
    return with_pillow(Image.fromarray(rgba()), format), rgba()


def plain(format):
    if format == "AVIF":
        return imagecodecs.avif_encode(smooth(), level=100, pixelformat="444", matrix=0), smooth()
    return with_pillow(Image.fromarray(smooth()), format), smooth()


def grey(format):
    samples = (smooth().sum(2, keepdims=True) * 0.3).astype(np.uint8)
    if format == "AVIF":
        return imagecodecs.avif_encode(samples[:, :, 0], level=100), samples
    return with_pillow(Image.fromarray(samples[:, :, 0]), format), samples


def one_bit(format):
    bits = stored((9, 13), 1)[:, :, 0] > 99
    return with_pillow(Image.fromarray(bits), format), bits[:, :, None] * 255


def palette(format):
    image = Image.fromarray(smooth()).quantize(17)
    return with_pillow(image, format), np.asarray(image.convert("RGB"))


def floats(format):
    samples = np.random.default_rng(3).random((13, 9, 3), np.float32)
    return with_tifffile(samples, photometric="rgb"), samples


SAMPLES = {
    "8 bits": plain,
    "more bits": deep,
    "float": floats,
    "alpha": transparent,
    "grey": grey,
    "1 bit": one_bit,
    "palette": palette,
}


def profiled(format):
    if format == "JPEG XL":
        return recorded("profiled.jxl")
    if format == "JPEG 2000":
        data = with_pillow(Image.fromarray(smooth()), format)
        end = data.index(b"colr") + 11  # an enumerated space, of 15 bytes in all
        whole = box(b"colr", b"\2\0\0", SRGB)
        start = data.index(b"jp2h") - 4
        (size,) = struct.unpack_from(">I", data, start)
        data = data[: end - 15] + whole + data[end:]
        return data[:start] + struct.pack(">I", size - 15 + len(whole)) + data[start + 4 :]
    if format != "BMP":
        return with_pillow(Image.fromarray(smooth()), format, icc_profile=SRGB)
    pixels = smooth()[:, :, ::-1].tobytes()
    header = struct.pack("<IiiHHIIiiII", 124, 56, -40, 1, 24, 0, 0, 0, 0, 0, 0).ljust(56, b"\0") + b"DEBM"
    header = header.ljust(112, b"\0") + struct.pack("<III", 124 + len(pixels), len(SRGB), 0)
    return b"BM" + struct.pack("<IHHI", 138 + len(pixels) + len(SRGB), 0, 0, 138) + header + pixels + SRGB


def as_read(tmp_path, data):
    path = tmp_path / ("file.tga" if data[-18:-2] == b"TRUEVISION-XFILE" else "file")
    path.write_bytes(data)
    return read(path)


# Reading


@pytest.mark.parametrize("cell", [c for c in READING if c[1] in SAMPLES and c[2] != "–"], ids=identity)
def test_samples_are_read_as_promised(tmp_path, cell):
    format, name, promise = cell
    data, expected = SAMPLES[name](format)
    picture = as_read(tmp_path, data)
    assert picture.notes == ()
    assert picture.depth == {"more bits": 16, "float": 32}.get(name, 8)
    assert picture.grey == (name in ("grey", "1 bit"))
    assert (picture.alpha is not None) == (expected.shape[2] in (2, 4))
    if name == "float":
        assert np.array_equal(picture.pixels[0].permute(1, 2, 0).numpy(), expected)
        return
    white = 65535 if name == "more bits" else 255
    difference = np.abs(as_samples(picture, white) - expected).max() / white * 255
    assert difference == 0 if promise == "exact" else 0 < difference <= STEPS


@pytest.mark.parametrize("cell", [c for c in READING if c[1] == "CMYK" and c[2] != "–"], ids=identity)
def test_cmyk_is_read_as_promised(tmp_path, cell):
    ink = Image.new("CMYK", (8, 8), (0, 255, 0, 0))
    picture = as_read(tmp_path, with_pillow(ink, cell[0], icc_profile=cmyk_profile()))
    assert cell[2] == "converted"
    assert picture.profile is None
    # CIE L* 76.5, a* 60, b* 0, whose red lies outside of sRGB; plain arithmetic gives (255, 0, 255).
    assert np.abs(as_samples(picture) - [255, 139, 192]).max() <= 2


METADATA = {"profile", "EXIF", "XMP"}


@pytest.mark.parametrize("cell", [c for c in READING if c[1] in METADATA and c[2] != "–"], ids=identity)
def test_what_stands_beside_pixels_is_read_as_promised(tmp_path, cell):
    format, name, promise = cell
    if name == "profile":
        assert promise == "kept"
        expected = recorded("profiled.icc") if format == "JPEG XL" else SRGB
        assert as_read(tmp_path, profiled(format)).profile == expected
    elif name == "XMP":
        assert promise == "kept"
        assert as_read(tmp_path, with_pillow(Image.fromarray(smooth()), format, xmp=XMP)).xmp == XMP
    else:
        assert promise == "kept"
        exif = loaded_exif(as_read(tmp_path, with_pillow(Image.fromarray(smooth()), format, exif=exif_bytes())).exif)
        assert exif[0x010F] == "Maker"
        assert exif.get_ifd(0x8769) == {0x9003: "2020:01:02 03:04:05", 0x829A: 0.5}  # and no stale size
        assert exif.get_ifd(0x8825)[1] == "N"


@pytest.mark.parametrize("cell", [c for c in READING if c[1] == "orientation" and c[2] != "–"], ids=identity)
@pytest.mark.parametrize("orientation", [3, 5, 6])
def test_orientation_is_read_as_promised(tmp_path, cell, orientation):
    if cell[0] == "JPEG XL":
        orientation, data = 6, recorded("turned.jxl")
    else:
        data = with_pillow(Image.fromarray(smooth()), cell[0], exif=exif_bytes(orientation))
    picture = as_read(tmp_path, data)
    turn = {3: Image.Transpose.ROTATE_180, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270}[orientation]
    expected = np.asarray(Image.fromarray(smooth()).transpose(turn)).astype(int)
    assert cell[2] == "applied"
    assert np.abs(as_samples(picture) - expected).max() <= (2 * STEPS if cell[0] == "JPEG XL" else STEPS)
    assert picture.exif is None or 0x0112 not in loaded_exif(picture.exif)


@pytest.mark.parametrize("cell", [c for c in READING if c[1] == "several" and c[2] != "–"], ids=identity)
def test_of_several_images_the_promised_one_is_read(tmp_path, cell):
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "lime")]
    if cell[0] == "JPEG XL":
        data = recorded("several.jxl")
    else:
        data = with_pillow(images[0], cell[0], save_all=True, append_images=images[1:])
    picture = as_read(tmp_path, data)
    assert cell[2] == "first"
    assert np.abs(as_samples(picture) - [255, 0, 0]).max() <= STEPS
    assert len(picture.notes) == 1
    assert "taken" in picture.notes[0]


def test_every_property_of_reading_is_tried():
    tried = SAMPLES.keys() | METADATA | {"CMYK", "orientation", "several"}
    assert {name for _, name, _ in READING} == tried


# Writing


def written(tmp_path, format, picture):
    path = tmp_path / f"file.{ending_of(format)}"
    write(path, picture)
    return read(path)


PICTURES = {
    "8 bits": as_picture(smooth()),
    "16 bits": as_picture(smooth() // 2 * np.uint16(514) + stored((40, 56), 3)),
    "float": Picture(torch.from_numpy(smooth().transpose(2, 0, 1)[None] / 255.0001), depth=32),
    "alpha": as_picture(rgba()),
    "grey": as_picture(grey("PNG")[1]),
}


def in_unit_range(picture):
    parts = [picture.pixels] + ([] if picture.alpha is None else [picture.alpha])
    return torch.cat([part.double() / {torch.uint8: 255, torch.uint16: 65535}.get(part.dtype, 1) for part in parts], 1)


@pytest.mark.parametrize("cell", [c for c in WRITING if c[1] in PICTURES], ids=identity)
def test_samples_are_written_as_promised(tmp_path, cell):
    format, name, promise = cell
    picture = PICTURES[name]
    if promise == "refused":
        assert "cannot hold transparency" in message_of(write, tmp_path / f"file.{ending_of(format)}", picture)
        return
    result = written(tmp_path, format, picture)
    depth = {"exact": {"16 bits": 16, "float": 32}.get(name, 8), "16 bits": 16, "10 bits": 16}.get(promise, 8)
    assert result.depth == depth
    assert result.grey == (name == "grey" and promise != "as RGB")
    assert (result.alpha is None) == (picture.alpha is None)
    difference = (in_unit_range(result) - in_unit_range(picture)).abs().max()
    if promise == "exact":
        assert difference < 1e-7
    elif format in ("PNG", "TIFF", "BMP") or promise == "16 bits":
        assert difference <= 0.5001 / (65535 if promise == "16 bits" else 255)
    elif (format, name) == ("AVIF", "grey"):  # so smooth that nothing need be lost
        assert difference <= STEPS / 255
    else:
        assert 0.5 / 255 < difference <= (2 * STEPS if format == "JPEG XL" else STEPS) / 255


@pytest.mark.parametrize("cell", [c for c in WRITING if c[1] in METADATA], ids=identity)
def test_what_stands_beside_pixels_is_written_as_promised(tmp_path, cell):
    format, name, promise = cell
    source = as_read(tmp_path, with_pillow(Image.fromarray(smooth()), "PNG", exif=exif_bytes()))
    attribute = {"profile": "profile", "EXIF": "exif", "XMP": "xmp"}[name]
    value = {"profile": SRGB, "EXIF": source.exif, "XMP": XMP}[name]
    result = getattr(written(tmp_path, format, as_picture(smooth(), **{attribute: value})), attribute)
    if promise in ("dropped", "converted"):
        assert result is None
    elif name == "EXIF":
        assert loaded_exif(result) == loaded_exif(value)
        assert loaded_exif(result).get_ifd(0x8769) == loaded_exif(value).get_ifd(0x8769) != {}
    else:
        assert result == value


@pytest.mark.parametrize("cell", [c for c in WRITING if c[1] == "in bands"], ids=identity)
def test_formats_stream_as_promised(cell):
    assert streams(cell[0]) == {"yes": True, "no": False}[cell[2]]


@pytest.mark.parametrize("cell", [c for c in WRITING if c[1] == "longest side"], ids=identity)
def test_sides_are_limited_as_promised(tmp_path, cell):
    path, longest = tmp_path / f"file.{ending_of(cell[0])}", int(cell[2])
    for size in ({"height": 1, "width": longest}, {"height": longest, "width": 1}):
        if longest < 10**9 or cell[0] == "JPEG XL":  # a BMP of the longest side would have too many pixels
            assert check_target(path, **size) == cell[0]
    message = message_of(check_target, path, height=1, width=longest + 1)
    assert f"holds at most {longest} pixels per side" in message


def test_every_property_of_writing_is_tried():
    assert {name for _, name, _ in WRITING} == PICTURES.keys() | METADATA | {"in bands", "longest side"}


def test_a_png_of_linear_values_says_so_in_its_gamma(tmp_path):
    data = with_pillow(Image.fromarray(smooth()), "PNG")
    gamma = b"gAMA" + (100_000).to_bytes(4, "big")
    picture = as_read(tmp_path, data[:33] + b"\0\0\0\4" + gamma + zlib.crc32(gamma).to_bytes(4, "big") + data[33:])
    light = smooth() / 255
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(picture.pixels[0].permute(1, 2, 0).numpy() - expected).max() < 1e-6
    assert picture.notes == ("linear values encoded with the sRGB curve",)
