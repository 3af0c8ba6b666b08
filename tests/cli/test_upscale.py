"""nlsr upscale: what it writes, what it says, and that bad input gets one line and leaves nothing behind."""

import base64
import json
import os
import pickle
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file


def picture(path, size=(20, 14), mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def look(path):
    """Size and mode."""
    with Image.open(path) as image:
        return image.size, image.mode


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if path.name not in ("tiny.safetensors",))


def test_the_result_has_the_models_scale_and_lies_beside_the_picture(nlsr, tmp_path, tiny_model):
    code, out, err = nlsr("upscale", picture(tmp_path / "a.png"), "--model", tiny_model)
    assert (code, err) == (0, "")
    assert look(tmp_path / "a_x2.png")[0] == (40, 28)
    assert "20x14 -> 40x28, whole" in out
    assert out.strip().endswith("a_x2.png")
    assert len(out.splitlines()) == 1


def test_the_packaged_model_enlarges_four_times(nlsr, tmp_path):
    code, _, _ = nlsr("upscale", picture(tmp_path / "a.jpg"), "-o", tmp_path / "b.webp")
    assert code == 0
    assert look(tmp_path / "b.webp")[0] == (80, 56)


def test_equal_calls_write_equal_bytes(nlsr, tmp_path, tiny_model):
    picture(tmp_path / "a.png")
    for name in ("one.png", "two.png"):
        nlsr("upscale", tmp_path / "a.png", "--model", tiny_model, "-o", tmp_path / name, "--tile", 16)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


@pytest.mark.parametrize(
    ("mode", "ending", "result"),
    [("L", "png", "L"), ("1", "png", "L"), ("P", "png", "RGB"), ("RGBA", "png", "RGBA"), ("CMYK", "tif", "RGB")],
)
def test_every_kind_of_picture_is_enlarged(nlsr, tmp_path, tiny_model, mode, ending, result):
    source = picture(tmp_path / f"a.{ending}", mode=mode)
    code, _, _ = nlsr("upscale", source, "--model", tiny_model)
    assert code == 0
    assert look(tmp_path / "a_x2.png") == ((40, 28), result)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (300, 2)])
def test_the_smallest_sides_work(nlsr, tmp_path, tiny_model, size):
    code, _, _ = nlsr("upscale", picture(tmp_path / "a.png", size=size), "--model", tiny_model, "--tile", 64)
    assert code == 0
    assert look(tmp_path / "a_x2.png")[0] == (2 * size[0], 2 * size[1])


def truncated(path):
    picture(path, size=(64, 64))
    path.write_bytes(path.read_bytes()[:-3000])
    return path


BAD_PICTURES = {
    "missing": (lambda p: p / "none.png", "none.png: expected an image file, but there is none"),
    "no image": (lambda p: written(p / "text.png", b"hello"), "text.png: "),
    "truncated": (lambda p: truncated(p / "cut.png"), "cut.png: "),
    "empty": (lambda p: written(p / "empty.png", b""), "empty.png: "),
}


def written(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("case", BAD_PICTURES)
def test_a_bad_picture_gets_one_line_and_no_output(nlsr, tmp_path, tiny_model, case):
    make, message = BAD_PICTURES[case]
    source = make(tmp_path)
    before = leftovers(tmp_path)
    code, out, err = nlsr("upscale", source, "--model", tiny_model, "-o", tmp_path / "out.png")
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert message in err
    assert leftovers(tmp_path) == before


def test_a_bad_picture_does_not_stop_the_others(nlsr, tmp_path, tiny_model):
    good, bad = picture(tmp_path / "good.png"), written(tmp_path / "bad.png", b"x")
    code, _, err = nlsr("upscale", bad, good, "--model", tiny_model)
    assert code == 1
    assert (tmp_path / "good_x2.png").exists()
    assert "bad.png" in err
    assert "1 of 2 pictures failed" in err


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("raw.CR2", b"II*\0 of a camera", "the raw data of a camera"),
        ("layers.psd", b"8BPS\0\1", "a Photoshop document"),
        ("light.exr", b"v/1\1", "OpenEXR"),
        ("drawing.svg", b"<svg/>", "SVG, which has no pixels to enlarge"),
    ],
)
def test_a_picture_of_a_format_that_is_not_read_is_named_and_counts_as_failed(
    nlsr, tmp_path, tiny_model, name, content, what
):
    """Whether it is given by name, in a folder, or by a glob."""
    folder = tmp_path / "in"
    folder.mkdir()
    picture(folder / "good.png")
    bad = written(folder / name, content)
    for number, words in enumerate(([folder], [bad, folder / "good.png"], [folder / "*"])):
        out = tmp_path / str(number)
        code, _, err = nlsr("upscale", *words, "-o", out, "--model", tiny_model)
        assert code == 1
        assert f"got {what}; convert it" in err
        assert (out / "good.png").exists()


def test_output_equal_to_input_is_refused(nlsr, tmp_path, tiny_model):
    source = picture(tmp_path / "a.png")
    before = source.read_bytes()
    code, _, err = nlsr("upscale", source, "--model", tiny_model, "-o", source, "--overwrite")
    assert code == 2
    assert "the output is the input" in err
    assert source.read_bytes() == before


def test_an_existing_file_is_kept_unless_asked(nlsr, tmp_path, tiny_model):
    source, target = picture(tmp_path / "a.png"), written(tmp_path / "b.png", b"mine")
    assert nlsr("upscale", source, "--model", tiny_model, "-o", target)[0] == 2
    assert target.read_bytes() == b"mine"
    assert nlsr("upscale", source, "--model", tiny_model, "-o", target, "--overwrite")[0] == 0
    assert look(target)[0] == (40, 28)


@pytest.mark.parametrize("target", ["nowhere/out.png", "out.xyz", "out"])
def test_an_output_that_cannot_be_written_is_said_before_computing(nlsr, tmp_path, tiny_model, monkeypatch, target):
    from nlsr.networks import Network

    monkeypatch.setattr(Network, "trace", lambda *_, **__: pytest.fail("computed"))
    source = picture(tmp_path / "a.png")
    code, _, err = nlsr("upscale", source, "--model", tiny_model, "-o", tmp_path / target)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert leftovers(tmp_path) == ["a.png"]


class Evil:
    def __reduce__(self):
        return print, ("code from a weight file ran",)


def evil(path):
    with path.open("wb") as file:
        pickle.dump({"weight": Evil()}, file)
    return path


def foreign(path):
    save_file({"layer.weight": torch.zeros(3)}, path)
    return path


def damaged(path, tiny_model):
    path.write_bytes(tiny_model.read_bytes()[:-100])
    return path


@pytest.mark.parametrize(
    ("make", "message", "expected"),
    [
        (lambda p, tiny: "no-such-model", "no model is named 'no-such-model'", 2),
        (lambda p, tiny: p / "none.safetensors", "expected a weight file, found no such file", 2),
        (lambda p, tiny: picture(p / "b.jpg"), "b.jpg: expected a weight file, got a picture (JPEG)", 2),
        (lambda p, tiny: evil(p / "evil.pt"), "expected safetensors or a pickled state dict", 1),
        (lambda p, tiny: foreign(p / "foreign.safetensors"), "expected a weight file of", 1),
        (lambda p, tiny: damaged(p / "damaged.safetensors", tiny), "a damaged safetensors file", 1),
        (lambda p, tiny: written(p / "text.pt", b"hello"), "expected safetensors or a pickled state dict", 1),
    ],
)
def test_a_bad_model_gets_one_line_and_runs_nothing(nlsr, tmp_path, tiny_model, make, message, expected):
    source = picture(tmp_path / "a.png")
    model = make(tmp_path, tiny_model)
    code, out, err = nlsr("upscale", source, "--model", model)
    assert (code, out) == (expected, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "a_x2.png").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--tile", "3"],
        ["--tile", "big"],
        ["--memory", "lots"],
        ["--memory", "1KiB"],
        ["--precision", "fp64"],
        ["--scale", "0"],
        ["--scale", "2", "--width", "40"],
        ["--fit", "wide"],
        ["--format", "xyz"],
        ["--quality", "0"],
        ["--name", "{nothing}"],
        ["--name", "a/b"],
        ["--resume"],
        ["--set", "scale"],
        ["--device", "nowhere"],
        ["--bad"],
    ],
)
def test_wrong_options_exit_with_2(nlsr, tmp_path, tiny_model, words):
    code, _, err = nlsr("upscale", picture(tmp_path / "a.png"), "--model", tiny_model, *words)
    assert code == 2
    assert len(err.splitlines()) == 1


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['nlsr', '--help']\ntry: from nlsr.cli import main; main()\nexcept SystemExit: pass\n"
    )
    code += "print([m for m in ('torch', 'numpy', 'PIL', 'lightning') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    assert "upscale" in result.stdout


@pytest.mark.parametrize(("given", "used"), [(None, "1"), ("0", "0")])
def test_large_pages_are_asked_for_before_torch_is_there_if_the_user_said_nothing(given, used):
    code = "import os, sys\nfrom nlsr.cli import main\nsys.argv = ['nlsr', '--version']\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "print(os.environ['THP_MEM_ALLOC_ENABLE'], 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    environment |= {} if given is None else {"THP_MEM_ALLOC_ENABLE": given}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == f"{used} False"


def test_an_interrupted_command_says_what_is_done_and_leaves_nothing_half(nlsr, tmp_path, tiny_model, monkeypatch):
    from nlsr.upscale import Upscaler

    def interrupted(self, picture, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Upscaler, "upscale", interrupted)
    code, _, err = nlsr("upscale", picture(tmp_path / "a.png"), "--model", tiny_model)
    assert code == 130
    assert err == "upscale: stopped after 0 of 1 pictures; no half picture is left\n"
    assert leftovers(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    ("words", "name", "size"),
    [
        (["--scale", 1.5], "a_x1.5.png", (30, 21)),
        (["--width", 50], "a_w50.png", (50, 35)),
        (["--height", 50], "a_h50.png", (71, 50)),
        (["--fit", "30x30"], "a_30x30.png", (30, 21)),
        (["--name", "{scale}-{model}-{stem}-{input_ext}"], "2-tiny-a-png.png", (40, 28)),
        (["--format", "jpg"], "a_x2.jpg", (40, 28)),
        (["--format", "TIF", "--name", "b"], "b.tif", (40, 28)),
    ],
)
def test_size_format_and_name_are_those_asked_for(nlsr, tmp_path, tiny_model, words, name, size):
    code, out, _ = nlsr("upscale", picture(tmp_path / "a.png"), "--model", tiny_model, *words)
    assert code == 0
    assert out.strip().endswith(name)
    assert look(tmp_path / name)[0] == size


def test_the_format_asked_for_counts_more_than_an_ending(nlsr, tmp_path, tiny_model):
    nlsr("upscale", picture(tmp_path / "a.png"), "--model", tiny_model, "-o", tmp_path / "b", "--format", "webp")
    with Image.open(tmp_path / "b") as image:
        assert image.format == "WEBP"


def test_strip_leaves_metadata_out(nlsr, tmp_path, tiny_model):
    exif = Image.Exif()
    exif[0x010F] = "maker"
    picture(tmp_path / "a.jpg", exif=exif)
    for words in ([], ["--strip"]):
        nlsr("upscale", tmp_path / "a.jpg", "--model", tiny_model, "--overwrite", *words)
        with Image.open(tmp_path / "a_x2.png") as image:
            assert dict(image.getexif()) == ({} if words else {0x010F: "maker"})


def test_a_picture_of_too_many_pixels_is_refused_unless_allowed(nlsr, tmp_path, tiny_model):
    picture(tmp_path / "a.png")
    code, _, err = nlsr("upscale", tmp_path / "a.png", "--model", tiny_model, "--max-pixels", 279)
    assert code == 1
    assert "the limit is" in err
    assert nlsr("upscale", tmp_path / "a.png", "--model", tiny_model, "--max-pixels", 280)[0] == 0


def test_tiles_are_compared_with_the_whole(nlsr, tmp_path, tiny_model):
    words = ["upscale", picture(tmp_path / "a.png", (60, 40)), "--model", tiny_model, "--overwrite"]
    code, out, _ = nlsr(*words, "--tile", 32, "--compare-whole", tmp_path / "difference.png")
    assert code == 0
    assert "tiled against whole: " in out
    assert look(tmp_path / "difference.png")[0] == (120, 80)
    code, out, _ = nlsr(*words, "--tile", 32, "--compare-whole", tmp_path / "difference.png", "--json")
    assert json.loads(out)["tiled_against_whole"]["psnr"] > 30
    code, _, err = nlsr(*words, "--compare-whole", tmp_path / "difference.png")
    assert (code, "nothing to compare" in err) == (2, True)
    code, _, err = nlsr(*words, tmp_path / "b.png", "--compare-whole", tmp_path / "difference.png")
    assert (code, "expected one picture, got 2" in err) == (2, True)


def test_a_comparison_never_takes_the_place_of_the_picture(nlsr, tmp_path, tiny_model):
    path = picture(tmp_path / "a.png", (60, 40))
    content = path.read_bytes()
    words = ["upscale", path, "-o", tmp_path / "b.png", "--model", tiny_model, "--overwrite", "--tile", 32]
    for target in (path, tmp_path / "b.png"):
        code, _, err = nlsr(*words, "--compare-whole", target)
        assert (code, "is the picture itself" in err) == (2, True)
    assert path.read_bytes() == content


def test_a_name_that_becomes_too_long_is_one_line(nlsr, tmp_path, tiny_model):
    path = picture(tmp_path / f"{'a' * 251}.png")
    code, out, err = nlsr("upscale", path, "--model", tiny_model)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "too long" in err


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "sub/b.jpg", "sub/deep/c.webp"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(tmp_path / "in" / name)
    return tmp_path / "in"


def tree(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(path.relative_to(folder).as_posix() for path in files)


def test_a_folder_is_mirrored(nlsr, tmp_path, tiny_model, folder):
    code, out, err = nlsr("upscale", folder, "-o", tmp_path / "out", "--model", tiny_model)
    assert (code, err) == (0, "")
    assert tree(tmp_path / "out") == ["a.png", "sub/b.png", "sub/deep/c.png"]
    assert re.fullmatch(r"3 of 3 pictures in \d+:\d\d:\d\d", out.splitlines()[-1])


def test_an_output_folder_inside_the_input_folder_is_not_read(nlsr, tmp_path, tiny_model, folder):
    for _ in range(2):
        code, _, _ = nlsr("upscale", folder, "-o", folder / "large", "--model", tiny_model, "--overwrite")
        assert code == 0
    assert tree(folder / "large") == ["a.png", "sub/b.png", "sub/deep/c.png"]


def test_globs_are_expanded_and_other_files_counted(nlsr, tmp_path, tiny_model, folder):
    written(folder / "notes.txt", b"")
    code, _, err = nlsr("upscale", folder / "*", "-o", tmp_path / "out", "--model", tiny_model)
    assert (code, err) == (0, "upscale: left out what is no picture: 1 .txt\n")
    assert tree(tmp_path / "out") == ["a.png", "sub/b.png", "sub/deep/c.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["in"], "in: expected -o FOLDER"),
        (["in", "-o", "in"], "the output folder is the input folder"),
        (["in", "-o", "in/a.png"], "expected a folder for 3 pictures, got a file"),
        (["nothing", "-o", "out"], "nothing: holds no picture; looked for .png"),
        (["in/*.gif", "-o", "out"], "in/*.gif: holds no picture"),
        (["in/a.png", "-o", "b.png", "--name", "{stem}"], "--name {stem}: expected -o to be a folder"),
        (["in/a.png", "-o", "b.png", "--resume"], "--resume: expected -o FOLDER"),
    ],
)
def test_wrong_requests_of_batches_exit_with_2_and_write_nothing(
    nlsr, tmp_path, tiny_model, folder, words, message, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nothing").mkdir()
    before = sorted(tmp_path.rglob("*"))
    code, out, err = nlsr("upscale", *words, "--model", tiny_model)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_json_is_one_line_for_each_picture(nlsr, tmp_path, tiny_model, folder):
    odd = os.fsdecode(b"odd\n\xff.png")
    picture(folder / odd)
    written(folder / "bad.png", b"")
    written(folder / "a.jpg", (folder / "sub" / "b.jpg").read_bytes())
    code, out, err = nlsr("upscale", folder, "-o", tmp_path / "out", "--model", tiny_model, "--json")
    lines = {line["input"]: line for line in map(json.loads, out.splitlines())}
    assert code == 1
    assert len(lines) == 6
    done = lines[str(folder / "sub" / "b.jpg")]
    assert (done["status"], done["output"]) == ("done", str(tmp_path / "out" / "sub" / "b.png"))
    assert (done["size"], done["new_size"], done["error"], done["notes"]) == ([20, 14], [40, 28], None, [])
    assert done["plan"]["tile_size"] is None
    assert done["seconds"] >= 0
    bad = lines[str(folder / "bad.png")]
    assert (bad["status"], bad["plan"], bad["size"]) == ("failed", None, None)
    assert "empty file" in bad["error"]
    twin = lines[str(folder / "a.png")]
    assert "as that of" in twin["error"]
    strange = next(line for line in lines.values() if "input_base64" in line)
    assert base64.b64decode(strange["input_base64"]) == os.fsencode(folder / odd)
    strange["input"].encode("utf-8")
    assert (tmp_path / "out" / odd).exists()
    assert err.splitlines()[-3] == "upscale: 2 of 6 pictures failed, the others are done"
    assert [line.split(":")[0].rpartition("/")[2] for line in err.splitlines()[-2:]] == ["a.png", "bad.png"]


def test_a_problem_is_told_before_anything_is_computed(nlsr, tmp_path, tiny_model, folder):
    picture(folder / "sub" / "b.webp")
    _, out, _ = nlsr("upscale", folder, "-o", tmp_path / "out", "--model", tiny_model, "--json")
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["failed", "done", "done", "done"]


def test_a_batch_goes_on_with_resume(nlsr, tmp_path, tiny_model, folder):
    words = ["upscale", folder, "-o", tmp_path / "out", "--model", tiny_model]
    nlsr(*words)
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in tree(tmp_path / "out")}
    code, out, err = nlsr(*words)
    assert (code, err.count("exists already, from an earlier run; continue that with --resume")) == (1, 6)
    (tmp_path / "out" / "a.png").unlink()
    half = written(tmp_path / "out" / "sub" / ".b.png.0123abcd.part", b"half")
    code, out, err = nlsr(*words, "--resume")
    assert (code, err, half.exists()) == (0, "", False)
    assert out.splitlines()[-1].startswith("1 of 3 pictures")
    assert out.splitlines()[-1].endswith("2 were finished before")
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == before[name] for name in tree(tmp_path / "out")[1:])
    _, _, err = nlsr(*words, "--resume", "--tile", 16)
    assert err == "upscale: --resume: not as before: tile; what was finished so is made again\n"


def test_a_file_that_the_batch_did_not_write_is_kept_by_resume(nlsr, tmp_path, tiny_model, folder):
    (tmp_path / "out").mkdir()
    written(tmp_path / "out" / "a.png", b"mine")
    code, _, err = nlsr("upscale", folder, "-o", tmp_path / "out", "--model", tiny_model, "--resume")
    assert (code, "exists already" in err) == (1, True)
    assert (tmp_path / "out" / "a.png").read_bytes() == b"mine"


def test_resume_goes_on_with_the_budget_of_then(nlsr, tmp_path, tiny_model, folder):
    words = ["upscale", folder, "-o", tmp_path / "out", "--model", tiny_model, "--json"]
    nlsr(*words, "--memory", "123MiB")
    (tmp_path / "out" / "a.png").unlink()
    _, out, err = nlsr(*words, "--resume")
    lines = [json.loads(line) for line in out.splitlines()]
    assert (err, [line["status"] for line in lines]) == ("", ["done", "skipped", "skipped"])
    assert lines[0]["plan"]["reason"].endswith("of 123 MiB")
    (tmp_path / "out" / "a.png").unlink()
    _, out, _ = nlsr(*words, "--resume", "--memory", "234MiB")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["status"] for line in lines] == ["done", "skipped", "skipped"]
    assert lines[0]["plan"]["reason"].endswith("of 234 MiB")


@pytest.mark.parametrize(
    ("done", "left", "seconds", "text"),
    [
        (0, 10, 5, ""),
        (10, 5, 5, "2.0 per second, 0:00:02 left"),
        (2, 1000, 90, "45.0 s each, 12:30:00 left"),
        (3, 0, 3, "1.0 s each, 0:00:00 left"),
    ],
)
def test_the_pace_of_a_batch_says_how_long_the_rest_takes(done, left, seconds, text):
    from nlsr.cli.progress import pace

    assert pace(done, left, seconds) == text


def test_a_full_disk_stops_a_batch_with_one_clear_line(nlsr, tmp_path, tiny_model, folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nlsr.images.files.encode", full)
    code, _, err = nlsr("upscale", folder, "-o", tmp_path / "out", "--model", tiny_model)
    assert code == 1
    assert "1 of 3 pictures failed, stopped, as the disk is full; free some space, and the same command with" in err
    assert tree(tmp_path / "out") == []


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_batch_that_is_interrupted_says_how_to_continue(nlsr, tmp_path, tiny_model, folder, monkeypatch, name):
    from nlsr.upscale import Upscaler

    kind = getattr(signal, name)

    upscale, calls = Upscaler.upscale, []

    def interrupted(self, picture, **options):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), kind)
        return upscale(self, picture, **options)

    monkeypatch.setattr(Upscaler, "upscale", interrupted)
    words = ["upscale", folder, "-o", tmp_path / "out", "--model", tiny_model]
    code, _, err = nlsr(*words)
    assert code == 128 + kind
    assert "of 3 pictures; no half picture is left; the same command with --resume continues\n" in err
    assert tree(tmp_path / "out") == ["a.png", "sub/b.png"]
    assert not list((tmp_path / "out").rglob("*.part"))
    assert nlsr(*words, "--resume")[0] == 0
    assert tree(tmp_path / "out") == ["a.png", "sub/b.png", "sub/deep/c.png"]


def test_running_out_of_memory_is_one_line(nlsr, tmp_path, tiny_model, monkeypatch):
    from nlsr.upscale import Upscaler

    def exhausted(self, picture, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(Upscaler, "upscale", exhausted)
    code, _, err = nlsr("upscale", picture(tmp_path / "a.png"), "--model", tiny_model)
    assert code == 1
    assert err.startswith("upscale: out of memory")
    assert len(err.splitlines()) == 1
