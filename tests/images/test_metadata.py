"""What stands beside the pixels: the table "Metadata" of docs/formats.md, and metadata that is bad.

Files are made and read by Pillow and tifffile, and by hand where those know nothing of it.
"""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, IptcImagePlugin, PngImagePlugin
from tests.images.samples import XMP, as_picture, as_samples, exif_bytes, loaded_exif, smooth
from tests.images.test_formats import as_read, cells, ending_of, identity, with_pillow, with_tifffile
from tests.images.test_meaning import chunks_of, png

from nlsr.images import read, without_metadata, write

METADATA = cells("Metadata")
IPTC = b"\x1c\x02\x19\x00\x03cat\x1c\x02P\x00\x02me"
"""A keyword and a byline."""

RESOURCES = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC
DPI = (300, 150)
TEXT = (("parameters", "a cat, Steps: 20"), ("Comment", "grüße"), ("Titel", "猫"))


def exif_of_dpi():
    exif = Image.Exif()
    exif[282], exif[283], exif[296] = 300.0, 150.0, 2
    return exif.tobytes()


def jpeg_with(*segments):
    buffer = io.BytesIO()
    Image.fromarray(smooth()).save(buffer, "JPEG", quality=95)
    packed = b"".join(bytes([255, marker]) + struct.pack(">H", 2 + len(c)) + c for marker, c in segments)
    return buffer.getvalue()[:20] + packed + buffer.getvalue()[20:]


def with_iptc(format):
    if format == "JPEG":
        return jpeg_with((0xED, b"Photoshop 3.0\0" + RESOURCES))
    if format == "TIFF":
        return with_tifffile(smooth(), photometric="rgb", extratags=[(33723, 7, len(IPTC), IPTC, True)])
    digits = RESOURCES.hex()
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type iptc", f"\niptc\n{len(RESOURCES):8}\n{digits[:72]}\n{digits[72:]}\n", zip=True)
    return with_pillow(Image.fromarray(smooth()), "PNG", pnginfo=text)


def with_resolution(format):
    if format in ("WebP", "AVIF", "HEIC", "JPEG XL"):
        return with_pillow(Image.fromarray(smooth()), format, exif=exif_of_dpi())
    return with_pillow(Image.fromarray(smooth()), format, dpi=DPI)


def with_text(format):
    if format == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text(*TEXT[0])
        text.add_text(*TEXT[1], zip=True)
        text.add_itxt(*TEXT[2])
        return with_pillow(Image.fromarray(smooth()), "PNG", pnginfo=text)
    return with_pillow(Image.fromarray(smooth()), format, comment=b"by me")


@pytest.mark.parametrize(
    "cell", [c for c in METADATA if c[1].endswith(" read") and c[2] not in ("–", "")], ids=identity
)
def test_metadata_is_read_as_promised(tmp_path, cell):
    format, name, promise = cell
    if name == "IPTC read":
        picture = as_read(tmp_path, with_iptc(format))
        assert (promise, picture.iptc, picture.text) == ("kept", IPTC, ())
    elif name == "resolution read":
        picture = as_read(tmp_path, with_resolution(format))
        assert promise in ("kept", "EXIF")
        assert picture.resolution == pytest.approx(DPI, abs=0.02)
    else:
        picture = as_read(tmp_path, with_text(format))
        assert picture.text == {"kept": TEXT, "comment": (("Comment", "by me"),)}[promise]
    assert picture.notes == ()


def foreign_iptc(path, format):
    with Image.open(path) as image:
        if format == "PNG":
            name, *rest = image.text["Raw profile type iptc"].split("\n")[1:]
            data = bytes.fromhex("".join(rest[1:]))
            assert (name, len(data)) == ("iptc", int(rest[0]))
            assert data[:12] == RESOURCES[:12]
            return data[12 : 12 + len(IPTC)]
        found = IptcImagePlugin.getiptcinfo(image)
        return None if not found else b"\x1c\x02\x19\x00\x03" + found[2, 25] + b"\x1c\x02P\x00\x02" + found[2, 80]


@pytest.mark.parametrize("cell", [c for c in METADATA if c[1].endswith(" written") and c[2]], ids=identity)
def test_metadata_is_written_as_promised(tmp_path, cell):
    format, name, promise = cell
    path = tmp_path / f"a.{ending_of(format)}"
    kind = name.removesuffix(" written")
    attribute, value = {"IPTC": ("iptc", IPTC), "resolution": ("resolution", DPI), "text": ("text", TEXT)}[kind]
    notes = write(path, as_picture(smooth(), **{attribute: value}))
    if promise == "dropped":
        assert notes == (f"no place in {format} for {kind}: dropped",)
        assert getattr(read(path), attribute) in (None, ())
        return
    if kind == "IPTC":
        assert foreign_iptc(path, format) == IPTC
    elif kind == "resolution":
        if format == "JPEG XL":
            exif = path.read_bytes().split(b"Exif\0\0\0\0")[1]
            assert (loaded_exif(exif)[282], loaded_exif(exif)[283], promise) == (*DPI, "EXIF")
            return
        with Image.open(path) as image:
            exif = image.getexif()
            found = image.info["dpi"] if promise == "field" else (exif[282], exif[283])
        assert found == pytest.approx(DPI, abs=0.02)
    else:
        with Image.open(path) as image:
            found = dict(image.text) if format == "PNG" else {"Comment": image.info["comment"].decode()}
        assert found == (dict(TEXT) if promise == "kept" else {"Comment": "grüße"})
    assert notes == (("no place in JPEG for text: dropped",) if promise == "comment" else ())
    assert np.array_equal(getattr(read(path), attribute), TEXT[1:2] if promise == "comment" else value) or (
        kind == "resolution"
    )


def test_all_columns_of_metadata_are_tried():
    expected = {f"{kind} {way}" for kind in ("IPTC", "resolution", "text") for way in ("read", "written")}
    assert {name for _, name, _ in METADATA} == expected


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif", "avif"])
def test_resolution_in_exif_is_that_of_the_container(tmp_path, ending):
    Image.fromarray(smooth()).save(tmp_path / "in.jpg", exif=exif_bytes(), dpi=(300, 300))
    picture = read(tmp_path / "in.jpg")
    assert picture.resolution == (300, 300)
    write(tmp_path / f"out.{ending}", picture)
    with Image.open(tmp_path / f"out.{ending}") as image:
        exif = image.getexif()
    assert (exif[282], exif[283], exif[296], exif[0x010F]) == (300, 300, 2, "Maker")
    assert read(tmp_path / f"out.{ending}").resolution == pytest.approx((300, 300), abs=0.01)


def test_resolution_turns_with_the_picture(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", exif=exif_bytes(6), dpi=DPI)
    assert read(tmp_path / "a.jpg").resolution == DPI[::-1]


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (png(smooth(), (b"pHYs", struct.pack(">IIB", 0, 0, 1))), "0×0"),
        (png(smooth(), (b"pHYs", struct.pack(">IIB", 2**32 - 1, 11811, 1))), "1.09092e+08×299.999"),
        (jpeg_with((0xE1, b"Exif\0\0" + exif_of_dpi()[6:].replace(struct.pack(">II", 300, 1), bytes(8)))), "nan"),
    ],
)
def test_a_resolution_that_makes_no_sense_costs_one_note(tmp_path, data, shown):
    picture = as_read(tmp_path, data)
    assert picture.resolution is None
    assert len(picture.notes) == 1
    assert picture.notes[0].startswith(f"resolution of {shown}")
    assert picture.notes[0].endswith("dots per inch makes no sense: dropped")


def test_of_a_density_that_is_only_a_shape_nothing_is_read(tmp_path):
    assert as_read(tmp_path, png(smooth(), (b"pHYs", struct.pack(">IIB", 1, 1, 0)))).resolution is None
    assert as_read(tmp_path, jpeg_with()).resolution is None


def test_exif_behind_the_pixels_of_a_png_is_read(tmp_path):
    picture = as_read(tmp_path, png(smooth(), (b">eXIf", exif_bytes(6)[6:]), (b">tEXt", b"Comment\0late")))
    assert loaded_exif(picture.exif)[0x010F] == "Maker"
    assert picture.text == (("Comment", "late"),)
    assert np.array_equal(as_samples(picture), np.rot90(smooth(), -1))


def test_texts_that_unpack_to_gigabytes_are_dropped_with_one_note(tmp_path):
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()
    chunks = [(b"zTXt", b"bomb\0\0" + bomb), (b"iTXt", b"other\0\1\0\0\0" + bomb), (b"tEXt", b"Comment\0kept")]
    picture = as_read(tmp_path, png(smooth(), *chunks, (b"iCCP", b"x\0\0" + bomb)))
    assert picture.text == (("Comment", "kept"),)
    assert picture.notes == (
        "text that is damaged or too long: dropped (bomb, other)",
        "ICC profile is damaged: dropped",
    )
    assert np.array_equal(as_samples(picture), smooth())


@pytest.mark.parametrize(
    "chunk", [(b"tEXt", b"no zero"), (b"zTXt", b"a\0\0rubbish"), (b"iTXt", b"a\0\0"), (b"tEXt", b"\0b")]
)
def test_a_damaged_text_costs_a_note_and_no_pixel(tmp_path, chunk):
    picture = as_read(tmp_path, png(smooth(), chunk))
    assert len(picture.notes) == (chunk[1] != b"no zero")
    assert np.array_equal(as_samples(picture), smooth())


def test_a_chunk_of_a_wrong_checksum_beside_the_pixels_is_dropped_with_a_note(tmp_path):
    data = png(smooth(), (b"tEXt", b"Comment\0hello"))
    picture = as_read(tmp_path, data.replace(b"hello", b"hallo"))
    assert (picture.text, picture.notes) == ((), ("damaged chunks tEXt: dropped",))


def test_iptc_of_ten_megabytes_is_carried(tmp_path):
    large = b"\x1c\x08\x0a\x80\x04" + struct.pack(">I", 10**7) + np.random.default_rng(1).bytes(10**7)
    write(tmp_path / "a.jpg", as_picture(smooth(), iptc=large))
    picture = read(tmp_path / "a.jpg")
    assert (picture.iptc, picture.notes) == (large, ())
    assert as_read(tmp_path, jpeg_with((0xED, b"Photoshop 3.0\0" + RESOURCES[:20]))).iptc is None


def test_exif_and_xmp_too_large_for_jpeg_are_dropped_with_one_note(tmp_path):
    notes = write(tmp_path / "a.jpg", as_picture(smooth(), exif=bytes(70_000), xmp=bytes(70_001)))
    assert notes == ("no place in JPEG for EXIF of 70000 bytes, XMP of 70001 bytes: dropped",)
    picture = read(tmp_path / "a.jpg")
    assert (picture.exif, picture.xmp) == (None, None)


def test_what_has_no_place_is_named_in_one_note(tmp_path):
    exif = as_read(tmp_path, jpeg_with((0xE1, exif_bytes()))).exif
    picture = as_picture(smooth(), exif=exif, xmp=XMP, iptc=IPTC, text=TEXT, resolution=DPI)
    assert write(tmp_path / "a.bmp", picture) == ("no place in BMP for EXIF, XMP, IPTC, text: dropped",)


def test_without_metadata_nothing_but_colours_is_left(tmp_path):
    exif = as_read(tmp_path, jpeg_with((0xE1, exif_bytes()))).exif
    picture = as_picture(smooth(), exif=exif, xmp=XMP, iptc=IPTC, text=TEXT, resolution=DPI)
    write(tmp_path / "a.png", without_metadata(picture))
    assert chunks_of(tmp_path / "a.png").keys() == {b"IHDR", b"IDAT", b"IEND"}


def test_metadata_of_a_jpeg_reaches_a_16_bit_tiff(tmp_path):
    data = jpeg_with((0xED, b"Photoshop 3.0\0" + RESOURCES), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP))
    write(tmp_path / "a.tif", as_read(tmp_path, data))
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        tags = tiff.pages[0].tags
        assert bytes(tags[33723].value) == IPTC
        assert bytes(tags[700].value) == XMP


def test_iptc_that_photoshop_keeps_among_its_resources_of_a_tiff_is_read(tmp_path):
    data = with_tifffile(smooth(), photometric="rgb", extratags=[(34377, 7, len(RESOURCES), RESOURCES, True)])
    assert as_read(tmp_path, data).iptc == IPTC


def test_the_gain_map_of_an_ultra_hdr_jpeg_is_dropped_with_a_note_and_out_of_its_xmp(tmp_path):
    xmp = (
        b'<rdf:Description hdrgm:Version="1.0" dc:x="y"><Container:Directory><rdf:Seq>map</rdf:Seq>'
        b"</Container:Directory></rdf:Description>"
    )
    gain_map = jpeg_with()
    data = jpeg_with((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)) + gain_map
    picture = as_read(tmp_path, data)
    assert picture.xmp == b'<rdf:Description dc:x="y"></rdf:Description>'
    assert picture.notes == ("Ultra HDR: the gain map is dropped, the picture of standard range kept",)
    assert np.abs(as_samples(picture) - smooth()).max() <= 6


def test_an_ultra_hdr_jpeg_of_its_own_library_is_read(tmp_path):
    y, x = np.mgrid[:64, :96]
    linear = np.stack([x / 24, y / 16, (x + y) / 40, np.ones_like(x)], 2).astype(np.float16)
    picture = as_read(tmp_path, imagecodecs.ultrahdr_encode(linear))
    assert "Ultra HDR: the gain map is dropped" in picture.notes[0]
    assert picture.pixels.shape == (1, 3, 64, 96)


@pytest.mark.parametrize("kind", ["RGB", "L", "CMYK", "progressive"])
def test_damaged_scan_data_of_a_jpeg_are_told(tmp_path, kind):
    """Forty bytes of the last scan become ones alone, which no Huffman code of a JPEG consists of."""
    data = bytearray(noise_as_jpeg(kind))
    sound = as_read(tmp_path, bytes(data)).notes
    start = data.rindex(b"\xff\xda") + 300
    data[start : start + 40] = b"\xff\0" * 20
    *before, told = as_read(tmp_path, bytes(data)).notes
    assert "scan data are damaged, parts of the picture may be wrong" in told
    assert tuple(before) == sound


@pytest.mark.parametrize("kind", ["RGB", "L", "CMYK", "progressive"])
def test_zeros_with_which_cameras_fill_up_a_jpeg_are_no_damage_and_other_bytes_are(tmp_path, kind):
    data = noise_as_jpeg(kind)
    sound = as_read(tmp_path, data).notes
    assert as_read(tmp_path, data[:-2] + bytes(50) + data[-2:]).notes == sound
    assert "extraneous bytes" in as_read(tmp_path, data[:-2] + b"\x11" * 50 + data[-2:]).notes[-1]


def noise_as_jpeg(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    mode = "RGB" if kind == "progressive" else kind
    noise.convert(mode).save(buffer, "JPEG", quality=90, progressive=kind == "progressive")
    return buffer.getvalue()
