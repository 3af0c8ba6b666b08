"""nlsr data prepare: what it says of folders, and that training takes what it made."""

import json

import numpy as np
import pytest
from PIL import Image


def picture(seed, height=40, width=60):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    picture(0).save(folder / "a.png")
    picture(0).save(folder / "b-like-a.png")
    picture(1, 90, 100).convert("L").save(folder / "c.jpg", quality=80)
    picture(2, 8, 9).save(folder / "d-small.png")
    return folder


@pytest.fixture
def prepare(nlsr, tmp_path):
    """prepare(word, ...) at x2 with patches of 8."""
    return lambda *words: nlsr(
        "data", "prepare", *words, "--scale", 2, "--patch-size", 8, "--cache", tmp_path / "cache"
    )


def test_a_folder_is_described(prepare, folder, tmp_path):
    code, out, err = prepare(folder)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["folder", "images", "megapixels"]
    assert lines[1].split() == [
        *(str(folder), "4", "0.01", "9×8", "60×40", "100×90", "1", "0", "0"),
        *("lowest", "80,", "median", "80,", "1", "files"),
    ]
    assert "4 pairs of 4 images at x2" in lines
    size = sum(file.stat().st_size for file in (tmp_path / "cache" / "pairs").iterdir())
    assert f"kept in {tmp_path}/cache/pairs, {size / 1e6:.1f} MB" in lines
    assert f"too small for a patch of 8x8 low-res pixels: {folder}/d-small.png" in lines
    assert f"equal files: {folder}/a.png, {folder}/b-like-a.png" in lines


def test_json_says_the_same(prepare, folder):
    code, out, _ = prepare(folder, "--json", "--source-scales", "1,0.5")
    found = json.loads(out)
    assert code == 0
    assert found["pairs"] == 8
    assert found["folders"][0] | {"folder": ""} == {
        "folder": "",
        "images": 4,
        "megapixels": 0.01,
        "smallest": [9, 8],
        "median": [60, 40],
        "largest": [100, 90],
        "grey": 1,
        "deeper": 0,
        "alpha": 0,
        "jpeg_quality": {"files": 1, "lowest": 80, "median": 80},
    }
    assert len(found["duplicates"]) == len(found["too_small"]) == 1


def test_a_corrupt_image_is_named_and_the_others_are_prepared(prepare, folder):
    (folder / "bad.png").write_bytes(b"no picture")
    code, out, err = prepare(folder)
    assert code == 1
    assert "4 pairs of 4 images" in out
    assert err.startswith(f"data: left out: {folder}/bad.png: expected PNG")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere"], 2, "data: nowhere: expected a folder of training images, found none"),
        (["."], 2, "data: .: expected training images (.png"),
        (["small"], 2, "data: no image holds a patch of 8x8 low-res pixels; use a smaller --patch-size"),
        (["small", "--source-scales", "1,x"], 2, "expected positive numbers with commas, like 1,0.5, got 1,x"),
        (["small", "--source-scales", "0"], 2, "expected positive numbers with commas"),
        (["small", "--low-res", "a", "--low-res", "b"], 2, "low-res folders: expected one for each folder"),
        (["small", "--low-res", "a"], 2, "data: a: expected a folder of low-res images, found none"),
    ],
)
def test_wrong_input_is_one_line(prepare, tmp_path, monkeypatch, words, code, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "small").symlink_to(tmp_path / "small")
    (tmp_path / "small").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    picture(2, 8, 9).save(tmp_path / "small" / "a.png")
    if words == ["."]:
        (tmp_path / "empty" / "small").unlink()
    result, _, err = prepare(*words)
    assert result == code
    assert message in err
    assert len(err.splitlines()) == 1


def test_an_interruption_says_how_to_continue(prepare, folder, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("nlsr.train.data.cache.read", stop)
    code, _, err = prepare(folder)
    assert code == 130
    assert err == "data: stopped; what is prepared stays, the same command continues\n"


def test_published_low_res_images_are_used(prepare, folder, tmp_path):
    low = tmp_path / "X2"
    low.mkdir()
    picture(3, 20, 30).save(low / "ax2.png")
    code, out, err = prepare(folder, "--low-res", low)
    assert code == 1
    assert "1 pairs of 1 images" in out
    assert len(err.splitlines()) == 3  # for the other images there is none


def test_training_says_what_it_leaves_out(nlsr, folder, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("nlsr.train.loop.fit", lambda recipe, pairs, *_, **__: given.append(pairs) or "weights")
    (folder / "bad.png").write_bytes(b"no picture")
    (tmp_path / "r.toml").write_text(
        'name = "r"\n[network]\npreset = "lcoan-light"\nscale = 2\n'
        '[data]\ntrain = ["photos"]\nvalidation = "photos"\n[training]\nsteps = 1\n'
    )
    words = ["--data", tmp_path, "-o", tmp_path / "runs", "--cache", tmp_path / "cache"]
    code, _, err = nlsr("train", tmp_path / "r.toml", *words)
    assert code == 0
    assert err.startswith(f"train: left out: {folder}/bad.png: expected PNG")
    assert len(given[0]) == 4
