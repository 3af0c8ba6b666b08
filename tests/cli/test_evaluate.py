"""nlsr evaluate: the table it prints, JSON for programs, a folder of results, and what it says of bad folders."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from nlsr.evaluate import PROTOCOLS


def save(path, height=41, width=53, *, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two images of odd size."""
    (tmp_path / "set").mkdir()
    for seed in range(2):
        save(tmp_path / "set" / f"{seed}.png", seed=seed)
    return tmp_path / "set"


def test_a_table_names_every_protocol_and_every_image(nlsr, folder):
    code, out, err = nlsr("evaluate", "--model", "bicubic", "--scale", 3, "--data", folder)
    assert (code, err) == (0, "")
    assert "## bicubic on set, x3" in out
    assert "0.png" in out
    for name in (*PROTOCOLS, "luma-first"):
        assert f"- `{name}`: " in out


def test_models_are_compared_and_equal_calls_print_equal_numbers(nlsr, folder, tiny_model):
    words = ["evaluate", "-m", "bicubic", "-m", tiny_model, "--scale", 2, "--data", folder, "--json"]
    first, second = nlsr(*words), nlsr(*words)
    assert first == second
    results = json.loads(first[1])
    assert [result["model"] for result in results] == ["bicubic", str(tiny_model)]
    assert results[0]["means"]["luma"]["psnr"] > 5
    assert len(results[1]["images"]) == 2


def test_a_bad_image_is_named_and_the_others_are_measured(nlsr, folder):
    (folder / "bad.png").write_bytes(b"not a picture")
    code, out, err = nlsr("evaluate", "-m", "bicubic", "-s", 2, "--data", folder, "--json")
    assert code == 1
    assert "bad.png" in err
    assert len(json.loads(out)[0]["images"]) == 2


def test_bad_models_and_folders_are_named_and_the_others_are_evaluated(nlsr, folder, tiny_model, tmp_path):
    (tmp_path / "empty").mkdir()
    models = ["-m", "none-such", "-m", tiny_model, "-m", "lcoan-light-x4", "-m", "bicubic"]
    data = ["-d", tmp_path / "missing", "-d", folder, "-d", tmp_path / "empty"]
    code, out, err = nlsr("evaluate", *models, "-s", 2, *data, "--json")
    assert code == 1
    assert [result["model"] for result in json.loads(out)] == [str(tiny_model), "bicubic"]
    lines = err.splitlines()
    assert len(lines) == 2 + 2 * 2
    assert "no model is named 'none-such'" in lines[0]
    assert "--scale 2: lcoan-light-x4 upscales by 4" in lines[1]
    assert "missing: " in lines[2]
    assert "empty: no image in this folder" in lines[3]


def test_low_res_images_may_be_given(nlsr, folder, tmp_path):
    (tmp_path / "low").mkdir()
    save(tmp_path / "low" / "0x2.png", 20, 26)
    save(tmp_path / "low" / "1x2.png", 20, 25)
    save(tmp_path / "low" / "7x2.png", 20, 26)
    words = ["evaluate", "-m", "bicubic", "-s", 2, "-d", folder, "--low-res", tmp_path / "low"]
    code, out, err = nlsr(*words, "--json")
    assert code == 1
    result = json.loads(out)[0]
    assert [image["name"] for image in result["images"]] == ["0.png"]
    assert "luma-first" not in result["means"]
    lines = err.splitlines()
    assert "1x2.png: expected a low-res image of 26×20 at scale 2, got 25×20" in lines[0]
    assert "7x2.png: belongs to no high-res image" in lines[1]


def test_results_are_written_and_a_second_run_changes_none(nlsr, folder, tiny_model, tmp_path):
    words = ["evaluate", "-m", "bicubic", "-m", tiny_model, "-s", 2, "-d", folder, "-o", tmp_path / "out"]
    code, out, err = nlsr(*words)
    assert (code, err) == (0, "")
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert files["results.md"].decode() == out
    assert {"results.csv", "results.json", "records.jsonl", "timing.json", "worst-bicubic-set-x2.png"} < set(files)
    assert sum(name.startswith("worst-tiny-") for name in files) == 1
    times = json.loads(files["timing.json"])[f"bicubic x2 on {folder}"]["0.png"]
    assert times["seconds"] > 0
    assert times["peak_bytes"] > 2**20
    assert nlsr(*words) == (code, out, err)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files


def test_an_interrupted_run_says_how_to_continue(nlsr, folder, tmp_path, monkeypatch):
    from nlsr.evaluate import models

    calls = []

    def bicubic(scale):
        def upscale(low_res):
            calls.append(low_res)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return low_res.repeat_interleave(scale, 2).repeat_interleave(scale, 3)

        return upscale

    monkeypatch.setattr(models, "bicubic", bicubic)
    words = ["evaluate", "-m", "bicubic", "-s", 2, "-d", folder, "-o", tmp_path / "out"]
    code, _, err = nlsr(*words)
    assert code == 130
    assert err == "evaluate: stopped after 1 of 2 images of set with bicubic; the same command continues from there\n"
    code, out, err = nlsr(*words)
    assert (code, err) == (0, "")
    assert "mean of 2" in out
    assert [low_res.shape[2] for low_res in calls] == [20] * len(calls)
    assert len((tmp_path / "out" / "records.jsonl").read_text().splitlines()) == 2


def test_tiles_and_the_ensemble_are_said_and_change_the_numbers(nlsr, folder, tiny_model):
    save(folder / "large.png", 90, 110, seed=5)
    words = {"": [], "In tiles as published.": ["--tiles", "published"], "Tiles of 16.": ["--tile", 16]}
    words["Mean of eight flips and turns."] = ["--ensemble"]
    means = {}
    for said, options in words.items():
        code, out, err = nlsr("evaluate", "-m", tiny_model, "-d", folder, *options)
        assert (code, err) == (0, "")
        assert [sentence for sentence in words if sentence and sentence in out] == [said] * bool(said)
        _, out, _ = nlsr("evaluate", "-m", tiny_model, "-d", folder, *options, "--json")
        means[said] = json.loads(out)[0]["means"]["rgb"]["psnr"]
    assert len({means[""], means["Tiles of 16."], means["Mean of eight flips and turns."]}) == 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-m", "bicubic"], 2, "--model bicubic: needs --scale"),
        (["-m", "none-such"], 2, "no model is named 'none-such'"),
        (["-m", "lcoan-light-x4", "-s", "2"], 2, "lcoan-light-x4 upscales by 4"),
        (["-s", "1"], 2, "Invalid value for '-s' / '--scale'"),
        (["--tile", "64", "--tiles", "published"], 2, "--tile and --tiles published: expected one of them"),
        (["--low-res", ".", "--low-res", "."], 2, "--low-res: expected one folder for each --data, got 2 for 1"),
        (["--device", "nowhere"], 2, "--device nowhere: not available here; try cpu"),
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


def test_sets_of_one_name_are_refused(nlsr, folder, tmp_path):
    code, _, err = nlsr("evaluate", "-m", "bicubic", "-s", 2, "-d", folder, "-d", folder)
    assert code == 2
    assert "--data: several sets are called set; rename a folder" in err


def test_a_name_that_is_no_text_is_written_escaped(nlsr, folder, tmp_path):
    (folder / "0.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    code, out, err = nlsr("evaluate", "-m", "bicubic", "-s", 2, "--data", folder, "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "caf\\udce9.png" in out
    for name in ("results.md", "results.csv"):
        assert "caf\\udce9.png" in (tmp_path / "out" / name).read_text(encoding="utf-8")
    assert json.loads((tmp_path / "out" / "results.json").read_text())
    assert list((tmp_path / "out").glob("*.png"))
