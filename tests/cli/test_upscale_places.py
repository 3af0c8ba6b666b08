"""nlsr upscale: where pictures come from and where results go, in which format, on which background."""

import io
import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from nlsr.images import read


def picture(path, size=(20, 14), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def transparent(path, opacity=90):
    with Image.open(picture(path)) as opened:
        image = opened.convert("RGBA")
    image.putalpha(opacity)
    image.save(path)
    return path


def names(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(path.relative_to(folder).as_posix() for path in files if path.suffix != ".safetensors")


class Bytes(io.TextIOWrapper):
    """A standard stream of bytes that is no terminal."""

    def __init__(self, content=b"", terminal=False):
        super().__init__(io.BytesIO(content), encoding="utf-8")
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture
def piped(nlsr, monkeypatch, tiny_model):
    """piped(content, words...) -> exit code, what went to standard output as bytes, standard error."""

    def run(content, *words, source=None, target=None):
        target = target or Bytes()
        monkeypatch.setattr(sys, "stdin", source or Bytes(content))
        monkeypatch.setattr(sys, "stdout", target)
        code, _, err = nlsr("upscale", *words, "--model", tiny_model)
        return code, target.buffer.getvalue(), err

    return run


def test_a_dash_is_standard_input_and_output(piped, tmp_path):
    content = picture(tmp_path / "a.png").read_bytes()
    code, out, err = piped(content, "-")
    assert code == 0
    assert err.endswith("standard output\n")  # words go where the picture does not
    with Image.open(io.BytesIO(out)) as image:
        assert (image.format, image.size) == ("PNG", (40, 28))
    assert piped(content, "-", "-o", "-")[1] == out
    assert piped(b"", tmp_path / "a.png", "-o", "-")[1] == out
    code, words, _ = piped(content, "-", "-o", tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == out
    assert words.decode().endswith("b.png\n")


@pytest.mark.parametrize(("words", "format"), [(["--format", "webp"], "WEBP"), (["--format", "same"], "JPEG")])
def test_the_format_on_standard_output_is_that_asked_for(piped, tmp_path, words, format):
    _, out, _ = piped(picture(tmp_path / "a.jpg").read_bytes(), "-", *words)
    with Image.open(io.BytesIO(out)) as image:
        assert image.format == format


def test_what_goes_wrong_with_standard_input_is_said_of_it(piped):
    code, out, err = piped(b"no picture", "-")
    assert (code, out) == (1, b"")
    assert err.startswith("upscale: standard input: expected PNG")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (["-", "-"], {}, "expected standard input alone, got 2 inputs"),
        (["-", "--json"], {}, "standard output is for the picture"),
        (["-"], dict(source=Bytes(terminal=True)), "standard input is a terminal"),
        (["-"], dict(target=Bytes(terminal=True)), "standard output is a terminal"),
        (["-", "--resume"], {}, "--resume: expected -o FOLDER"),
    ],
)
def test_standard_streams_that_can_hold_no_picture_are_refused(piped, words, options, message):
    code, out, err = piped(b"", *words, **options)
    assert (code, out, len(err.splitlines())) == (2, b"", 1)
    assert message in err


def test_a_reader_that_has_gone_is_one_line(piped, tmp_path):
    class Gone(Bytes):
        @property
        def buffer(self):
            return self

        def write(self, _):
            raise BrokenPipeError(32, "Broken pipe")

        def getvalue(self):
            return b""

    code, _, err = piped(picture(tmp_path / "a.png").read_bytes(), "-", target=Gone())
    assert code == 1
    assert err.splitlines()[-1] == "upscale: standard output: cannot be written (Broken pipe)"


def test_every_picture_keeps_its_format(nlsr, tmp_path, tiny_model):
    for name in ("a.png", "b.JPG", "c.jpeg", "d.gif", "sub/e.webp"):
        picture(tmp_path / "in" / name)
    (tmp_path / "in" / "f.png").write_bytes((tmp_path / "in" / "b.JPG").read_bytes())  # the content counts
    words = ["upscale", tmp_path / "in", "-o", tmp_path / "out", "--format", "same", "--model", tiny_model]
    code, _, err = nlsr(*words)
    assert (code, err) == (0, "upscale: --format same: GIF is not written, PNG is\n")
    assert names(tmp_path / "out") == ["a.png", "b.JPG", "c.jpeg", "d.png", "f.jpg", "sub/e.webp"]
    for name, format in [("a.png", "PNG"), ("b.JPG", "JPEG"), ("f.jpg", "JPEG"), ("sub/e.webp", "WEBP")]:
        with Image.open(tmp_path / "out" / name) as image:
            assert image.format == format
    assert nlsr(*words, "--resume")[1].endswith("6 were finished before\n")


@pytest.mark.parametrize(
    "words",
    [
        ["-o", "b.png", "--format", "jpeg"],
        ["-o", "b.tif", "--format", "same"],
        ["--name", "b.png", "--format", "jpeg"],
        ["--name", "{stem}.webp", "--format", "same"],
    ],
)
def test_an_ending_and_a_format_that_contradict_are_refused(nlsr, tmp_path, tiny_model, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = nlsr("upscale", picture(tmp_path / "a.jpg"), *words, "--model", tiny_model)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "by its ending, but --format" in err
    assert names(tmp_path) == ["a.jpg"]


def test_an_ending_and_a_format_that_agree_are_fine(nlsr, tmp_path, tiny_model):
    words = ["upscale", picture(tmp_path / "a.jpg"), "--model", tiny_model, "-o", tmp_path / "b.jpg"]
    assert nlsr(*words, "--format", "JPEG")[0] == 0
    assert nlsr(*words, "--format", "same", "--overwrite")[0] == 0


@pytest.mark.parametrize("ending", ["jpg", "bmp"])
def test_a_background_shows_through_where_a_format_has_no_transparency(nlsr, tmp_path, tiny_model, ending):
    """The result is that of the picture which Pillow has put on the background."""
    source = transparent(tmp_path / "a.png")
    words = ["--model", tiny_model, "--precision", "fp32"]
    code, _, err = nlsr("upscale", source, "-o", tmp_path / f"b.{ending}", *words)
    assert (code, "b." in err, "like --background white" in err) == (1, True, True)
    code, _, _ = nlsr("upscale", source, "-o", tmp_path / f"b.{ending}", "--background", "#ff8000", *words)
    assert code == 0
    with Image.open(source) as image:
        behind = Image.new("RGBA", image.size, "#ff8000")
        Image.alpha_composite(behind, image).convert("RGB").save(tmp_path / "flat.png")
    nlsr("upscale", tmp_path / "flat.png", "-o", tmp_path / f"c.{ending}", *words)
    nlsr("upscale", source, "-o", tmp_path / f"d.{ending}", "--background", "white", *words)
    result, expected, another = (read(tmp_path / f"{name}.{ending}").pixels for name in "bcd")
    assert (result - expected).abs().mean() < 3 / 255  # Pillow rounds to 8 bits in between, and JPEG may round on
    assert (result - another).abs().mean() > 30 / 255


def test_a_background_leaves_formats_with_transparency_alone(nlsr, tmp_path, tiny_model):
    source = transparent(tmp_path / "a.png")
    nlsr("upscale", source, "-o", tmp_path / "b.png", "--background", "red", "--model", tiny_model)
    assert read(tmp_path / "b.png").alpha.mean() < 0.5


def test_alpha_that_hides_nothing_needs_no_background(nlsr, tmp_path, tiny_model):
    source = transparent(tmp_path / "a.png", opacity=255)
    assert nlsr("upscale", source, "-o", tmp_path / "b.jpg", "--model", tiny_model)[0] == 0


@pytest.mark.parametrize("colour", ["nocolour", "#ff80007f", ""])
def test_what_is_no_colour_is_refused(nlsr, tmp_path, tiny_model, colour):
    code, _, err = nlsr("upscale", picture(tmp_path / "a.png"), "--background", colour, "--model", tiny_model)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "expected a colour like white" in err


def test_results_stand_beside_the_originals_under_other_names(nlsr, tmp_path, tiny_model):
    for name in ("a.png", "sub/b.jpg"):
        picture(tmp_path / "in" / name)
    words = ["upscale", tmp_path / "in", "--name", "{stem}_{size}", "--model", tiny_model]
    assert nlsr(*words)[0] == 0
    expected = ["a.png", "a_x2.png", "sub/b.jpg", "sub/b_x2.png"]
    assert names(tmp_path / "in") == expected
    code, _, err = nlsr(*words)
    assert (code, err.count("continue that with --resume")) == (1, 4)
    code, out, err = nlsr(*words, "-o", tmp_path / "in", "--resume")  # the same in other words
    assert (code, err) == (0, "upscale: left out the results of earlier runs: 2\n")
    assert out.endswith("2 were finished before\n")
    assert nlsr(*words, "--overwrite")[0] == 0
    assert names(tmp_path / "in") == expected


def test_results_beside_their_pictures_are_not_enlarged_again(nlsr, tmp_path, tiny_model, monkeypatch):
    """As when `nlsr upscale *` is typed again: the shell names pictures and results."""
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.jpg")
    expected = ["a.png", "a_x2.png", "b.jpg", "b_x2.png"]
    assert nlsr("upscale", *names(tmp_path), "--model", tiny_model)[0] == 0
    assert names(tmp_path) == expected
    code, _, err = nlsr("upscale", *names(tmp_path), "--model", tiny_model)
    assert code == 1
    assert err.startswith("upscale: left out the results of earlier runs: 2\n")
    assert err.count("exists already; choose another name or allow it with --overwrite") == 4
    assert nlsr("upscale", "*", "--model", tiny_model, "--overwrite")[0] == 0
    assert names(tmp_path) == expected
    assert nlsr("upscale", "a_x2.png", "--model", tiny_model)[0] == 0  # alone it is a picture like others
    assert names(tmp_path) == sorted([*expected, "a_x2_x2.png"])


def test_a_picture_is_never_replaced_by_what_another_name_makes(nlsr, tmp_path, tiny_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.png")
    picture(tmp_path / "a.jpg")
    before = (tmp_path / "a.png").read_bytes()
    code, _, err = nlsr("upscale", "a.png", "a.jpg", "--name", "{stem}", "--overwrite", "--model", tiny_model)
    assert (code, "would take the place of a.png" in err) == (1, True)
    assert (tmp_path / "a.png").read_bytes() == before


def test_a_name_never_takes_the_place_of_an_original(nlsr, tmp_path, tiny_model):
    for name in ("a.png", "a_x2.png"):
        picture(tmp_path / "in" / name)
    before = {name: (tmp_path / "in" / name).read_bytes() for name in names(tmp_path / "in")}
    for pattern in ("{stem}", "{stem}_x2"):
        code, _, err = nlsr("upscale", tmp_path / "in", "--name", pattern, "--overwrite", "--model", tiny_model)
        assert code == 1
        assert "the output is the input" in err or "would take the place of" in err
    assert {name: (tmp_path / "in" / name).read_bytes() for name in before} == before


@pytest.fixture
def link(tmp_path):
    (tmp_path / "far").mkdir()
    try:
        (tmp_path / "link.png").symlink_to(tmp_path / "far" / "b.png")
    except OSError:
        pytest.skip("this system lets nobody make links")
    return tmp_path / "link.png"


def test_a_link_is_followed_and_what_it_leads_to_needs_overwrite(nlsr, tmp_path, tiny_model, link):
    words = ["upscale", picture(tmp_path / "a.png"), "-o", link, "--model", tiny_model]
    assert nlsr(*words)[0] == 0
    with Image.open(tmp_path / "far" / "b.png") as image:
        assert image.size == (40, 28)
    code, _, err = nlsr(*words)
    assert (code, "exists already" in err) == (2, True)
    assert nlsr(*words, "--overwrite")[0] == 0
    assert link.is_symlink()


def test_a_link_into_a_folder_that_is_missing_is_refused(nlsr, tmp_path, tiny_model, link):
    (tmp_path / "far").rmdir()
    code, _, err = nlsr("upscale", picture(tmp_path / "a.png"), "-o", link, "--model", tiny_model)
    assert (code, "its folder does not exist" in err) == (2, True)
    assert link.is_symlink()


def test_results_that_links_lead_to_one_file_are_told_apart(nlsr, tmp_path, tiny_model):
    for name in ("a.png", "b.png"):
        picture(tmp_path / "in" / name)
    (tmp_path / "out").mkdir()
    try:
        (tmp_path / "out" / "a.png").symlink_to("b.png")
    except OSError:
        pytest.skip("this system lets nobody make links")
    code, _, err = nlsr("upscale", tmp_path / "in", "-o", tmp_path / "out", "--model", tiny_model)
    assert code == 1
    assert "as that of" in err
    assert (tmp_path / "out" / "a.png").is_symlink()


@pytest.mark.parametrize("words", [["upscale", "a.png"], ["explain", "a.png", "--at", "9,9"]])
def test_what_exceeds_a_budget_is_refused_before_its_pixels_are_decoded(nlsr, tmp_path, tiny_model, monkeypatch, words):
    from nlsr.images.formats import decode_png

    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.png", size=(400, 300))
    monkeypatch.setattr(decode_png, "_samples", lambda chunks: pytest.fail("pixels were decoded"))
    code, out, err = nlsr(*words, "--memory", "1MiB", "--model", tiny_model)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "the memory budget is 1 MiB" in err


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_the_need_is_one_figure_in_every_message(nlsr, tmp_path, tiny_model, name):
    words = ["upscale", picture(tmp_path / "in" / name), "--model", tiny_model, "--overwrite", "--json"]
    _, _, err = nlsr(*words, "--memory", "1MiB")
    need = err.split(" needs ")[1].split(",")[0]
    for more in ([], ["-o", f"{tmp_path}/out/"]):
        code, out, _ = nlsr(*words, "--memory", need.replace(" ", ""), *more)
        assert code == 0
        assert json.loads(out)["plan"]["reason"] == f"needs {need} of {need}"
        assert f"needs {need} of 3 GiB" in nlsr(*words, "--memory", "3GiB", *more)[1]


def test_nothing_is_left_of_standard_streams(piped, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    piped(picture(tmp_path / "a.png").read_bytes(), "-")
    piped(b"", "-")
    assert os.listdir(tmp_path / "tmp") == []


def test_a_grey_picture_on_a_colour_is_coloured():
    from nlsr.images import Picture, flattened

    grey, half = torch.full((1, 1, 2, 3), 0.5), torch.full((1, 1, 2, 3), 0.25)
    picture = Picture(grey.expand(1, 3, 2, 3), half, grey=True)
    on_white, on_red = flattened(picture, (1.0, 1.0, 1.0)), flattened(picture, (1.0, 0.0, 0.0))
    assert (on_white.grey, on_white.alpha, on_white.pixels.unique().tolist()) == (True, None, [0.875])
    assert (on_red.grey, on_red.pixels[0, :, 0, 0].tolist()) == (False, [0.875, 0.125, 0.125])
    assert flattened(on_red, (0.0, 0.0, 0.0)) is on_red


def test_ray_that_is_not_installed_is_named_before_anything_is_begun(nlsr, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    picture(tmp_path / "in" / "a.png")
    code, _, err = nlsr("upscale", tmp_path / "in", "-o", tmp_path / "out", "--ray")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "this needs 'ray'; install it with: " in err
    assert not (tmp_path / "out").exists()
