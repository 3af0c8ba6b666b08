"""nlsr upscale: what it writes, what it says, and that bad input gets one line and leaves nothing behind."""

import pickle
import subprocess
import sys
import time

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
    "directory": (lambda p: p, "expected an image file, got a directory"),
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


def test_output_equal_to_input_is_refused(nlsr, tmp_path, tiny_model):
    source = picture(tmp_path / "a.png")
    before = source.read_bytes()
    code, _, err = nlsr("upscale", source, "--model", tiny_model, "-o", source, "--overwrite")
    assert code == 2
    assert "the output is the input" in err
    assert source.read_bytes() == before


def test_an_existing_file_is_kept_unless_asked(nlsr, tmp_path, tiny_model):
    source, target = picture(tmp_path / "a.png"), written(tmp_path / "b.png", b"mine")
    assert nlsr("upscale", source, "--model", tiny_model, "-o", target)[0] == 1
    assert target.read_bytes() == b"mine"
    assert nlsr("upscale", source, "--model", tiny_model, "-o", target, "--overwrite")[0] == 0
    assert look(target)[0] == (40, 28)


@pytest.mark.parametrize("target", ["nowhere/out.png", "out.xyz", "out"])
def test_an_output_that_cannot_be_written_is_said_before_computing(nlsr, tmp_path, tiny_model, target):
    started = time.monotonic()
    source = picture(tmp_path / "a.png", size=(400, 400))
    code, _, err = nlsr("upscale", source, "--model", tiny_model, "-o", tmp_path / target)
    assert code in (1, 2)
    assert len(err.splitlines()) == 1
    assert time.monotonic() - started < 5
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
    ("make", "message"),
    [
        (lambda p, tiny: "no-such-model", "no model is named 'no-such-model'"),
        (lambda p, tiny: p / "none.safetensors", "expected a weight file, found no such file"),
        (lambda p, tiny: evil(p / "evil.pt"), "expected safetensors or a pickled state dict"),
        (lambda p, tiny: foreign(p / "foreign.safetensors"), "expected a weight file of"),
        (lambda p, tiny: damaged(p / "damaged.safetensors", tiny), "a damaged safetensors file"),
        (lambda p, tiny: written(p / "text.pt", b"hello"), "expected safetensors or a pickled state dict"),
    ],
)
def test_a_bad_model_gets_one_line_and_runs_nothing(nlsr, tmp_path, tiny_model, make, message):
    source = picture(tmp_path / "a.png")
    model = make(tmp_path, tiny_model)
    code, out, err = nlsr("upscale", source, "--model", model)
    assert (code, out) == (1, "")
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


def test_an_interrupted_command_says_what_is_done_and_leaves_nothing_half(nlsr, tmp_path, tiny_model, monkeypatch):
    from nlsr.upscale import Upscaler

    def interrupted(self, picture, report=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(Upscaler, "upscale", interrupted)
    code, _, err = nlsr("upscale", picture(tmp_path / "a.png"), "--model", tiny_model)
    assert code == 130
    assert err == "upscale: stopped after 0 of 1 pictures; no half picture is left\n"
    assert leftovers(tmp_path) == ["a.png"]


def test_running_out_of_memory_is_one_line(nlsr, tmp_path, tiny_model, monkeypatch):
    from nlsr.upscale import Upscaler

    def exhausted(self, picture, report=None):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(Upscaler, "upscale", exhausted)
    code, _, err = nlsr("upscale", picture(tmp_path / "a.png"), "--model", tiny_model)
    assert code == 1
    assert err.startswith("upscale: out of memory")
    assert len(err.splitlines()) == 1
