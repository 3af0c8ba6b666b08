"""nlsr evaluate: the table it prints, JSON for programs, and what it says of bad folders."""

import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    """Two images of odd size."""
    (tmp_path / "set").mkdir()
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (41, 53, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / f"{seed}.png")
    return tmp_path / "set"


def test_a_table_names_the_protocol_and_every_image(nlsr, folder):
    code, out, err = nlsr("evaluate", "--model", "bicubic", "--scale", 3, "--data", folder)
    assert (code, err) == (0, "")
    assert "## bicubic on set, x3" in out
    assert "0.png" in out
    assert "luma" in out


def test_models_are_compared_and_equal_calls_print_equal_numbers(nlsr, folder, tiny_model):
    words = ["evaluate", "-m", "bicubic", "-m", tiny_model, "--scale", 2, "--data", folder, "--json"]
    first, second = nlsr(*words), nlsr(*words)
    assert first == second
    results = json.loads(first[1])
    assert [result["model"] for result in results] == ["bicubic", str(tiny_model)]
    assert results[0]["mean"]["psnr"] > 5
    assert len(results[1]["rows"]) == 2


def test_a_bad_image_is_named_and_the_others_are_measured(nlsr, folder):
    (folder / "bad.png").write_bytes(b"not a picture")
    code, out, err = nlsr("evaluate", "-m", "bicubic", "-s", 2, "--data", folder, "--json")
    assert code == 1
    assert "bad.png" in err
    assert len(json.loads(out)[0]["rows"]) == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-m", "bicubic"], 2, "--model bicubic: needs --scale"),
        (["-m", "none-such"], 1, "no model is named 'none-such'"),
        (["-m", "lcoan-light-x4", "-s", "2"], 2, "lcoan-light-x4 upscales by 4"),
        (["-s", "1"], 2, "Invalid value for '-s' / '--scale'"),
    ],
)
def test_wrong_requests_get_one_line(nlsr, folder, words, code, message):
    got, _, err = nlsr("evaluate", "--data", folder, *words)
    assert got == code
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_missing_or_empty_folder_is_named(nlsr, tmp_path):
    for folder in (tmp_path / "none", tmp_path):
        code, _, err = nlsr("evaluate", "-m", "bicubic", "-s", 2, "--data", folder)
        assert code in (1, 2)
        assert str(folder) in err
        assert len(err.splitlines()) == 1
