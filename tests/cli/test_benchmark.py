"""nlsr benchmark: measured and predicted rows."""

import json

import pytest
import torch
from PIL import Image

from nlsr.benchmark.networks import PARAMETERS
from nlsr.benchmark.tradeoff import points
from nlsr.benchmark.workers import Failed


def test_the_table_names_sizes_and_published_counts(nlsr, here, monkeypatch):
    monkeypatch.setattr("nlsr.benchmark.networks.SIZES", ((16, 16), (20, 24)))
    code, out, _ = nlsr("benchmark", "networks", "pan", "lcoan-light", "--threads", 1, "--json")
    assert code == 0
    pan, light = map(json.loads, out.splitlines())
    assert pan["parameters"] == pan["published_parameters"] == PARAMETERS["pan"][4]
    assert light["published_parameters"] is None
    for row in (pan, light):
        assert [cost["predicted"] for cost in row["costs"]] == [False, False]
        assert all(cost["seconds"] > 0 for cost in row["costs"])


def test_what_would_take_too_long_is_predicted_and_marked(nlsr, here, monkeypatch):
    monkeypatch.setattr("nlsr.benchmark.networks.SIZES", ((16, 16), (20000, 24000)))
    code, out, _ = nlsr("benchmark", "networks", "pan", "--threads", 1, "--limit", 1)
    assert code == 0
    assert "24000x20000: seconds" in out
    assert out.count("~") == 2


def test_an_unknown_network_is_refused(nlsr):
    code, _, err = nlsr("benchmark", "networks", "none-such")
    assert (code, "none-such: expected one of" in err) == (2, True)


def test_sizes_are_chosen_and_results_written(nlsr, tmp_path):
    words = ["benchmark", "networks", "pan", "--threads", 1, "--size", "24x16", "-o", tmp_path / "out"]
    code, out, err = nlsr(*words)
    assert code == 0, err
    assert "24x16: seconds | 24x16: peak MiB |" in out
    assert (tmp_path / "out" / "networks.md").read_text().strip() == out.strip()
    (line,) = (tmp_path / "out" / "networks.jsonl").read_text().splitlines()
    assert [(cost["height"], cost["width"]) for cost in json.loads(line)["costs"]] == [(16, 24)]


@pytest.mark.parametrize("kind", ["networks", "operators"])
def test_a_request_that_fails_leaves_earlier_results_and_a_bad_folder_is_said_at_once(nlsr, tmp_path, kind):
    for ending in ("md", "jsonl"):
        (tmp_path / f"{kind}.{ending}").write_text("earlier")
    assert nlsr("benchmark", kind, "none-such", "-o", tmp_path)[0] == 2
    assert {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()} == {
        f"{kind}.md": "earlier",
        f"{kind}.jsonl": "earlier",
    }
    code, _, err = nlsr("benchmark", kind, "none-such", "-o", tmp_path / f"{kind}.md")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "cannot be written (File exists)" in err


@pytest.mark.parametrize("size", ["24", "0x9", "9x", "axb", "-3x4"])
def test_a_size_that_is_none_is_refused(nlsr, size):
    code, _, err = nlsr("benchmark", "networks", "pan", "--size", size)
    assert (code, f"--size {size}: expected WxH, like 320x180" in err) == (2, True)


def test_quality_is_drawn_against_time_from_what_was_evaluated(nlsr, here, tmp_path):
    (tmp_path / "data").mkdir()
    for name, side in (("a.png", 32), ("b.png", 48)):
        Image.effect_noise((side, side), 60).convert("RGB").save(tmp_path / "data" / name)
    models = ["--model", "lcoan-light-x4", "--model", "bicubic"]
    code, _, err = nlsr(
        "evaluate", *models, "--scale", 4, "--data", tmp_path / "data", "-o", tmp_path / "results", "--threads", 1
    )
    assert code == 0, err
    words = ["pan", "--threads", 1, "--size", "16x16", "--evaluated", tmp_path / "results", "-o", tmp_path / "out"]
    code, out, err = nlsr("benchmark", "networks", *words)
    assert code == 0, err
    light, bicubic = points(tmp_path / "results")
    timing = json.loads((tmp_path / "results" / "timing.json").read_text())
    (images,) = (images for name, images in timing.items() if name.startswith("lcoan"))
    spent = sum(image["seconds"] for image in images.values())
    assert light.seconds == pytest.approx(1e6 * spent / (32**2 + 48**2))
    assert f"| lcoan-light-x4 | 4 | data | {light.psnr:.3f} | {light.seconds:.3g} |" in out
    assert bicubic.model == "bicubic"
    with Image.open(tmp_path / "out" / "tradeoff.png") as plot:
        assert plot.width > 500


def test_a_folder_without_results_is_refused_before_anything_is_measured(nlsr, tmp_path):
    code, out, err = nlsr("benchmark", "networks", "pan", "--evaluated", tmp_path)
    assert (code, out) == (2, "")
    assert "expected the folder of a finished `nlsr evaluate -o` run" in err


def test_operators_are_measured_and_drawn(nlsr, here, tmp_path):
    Image.effect_noise((40, 40), 60).convert("RGB").save(tmp_path / "picture.png")
    names = ["kmeans", "dense", "cross-scale"]
    words = [*names, "--size", 16, "--size", 24, "--channels", 16, "--repeats", 1, "--threads", 1]
    code, out, err = nlsr("benchmark", "operators", *words, "-o", tmp_path / "out", "--image", tmp_path / "picture.png")
    assert code == 0, err
    assert "| operator | 16² | 24² | time ~ pixels^ |" in out
    assert "| k-means, trained | 1 |" in out
    lines = [json.loads(line) for line in (tmp_path / "out" / "operators.jsonl").read_text().splitlines()]
    measured = [line for line in lines if "operator" in line]
    assert {(line["operator"], line["size"]) for line in measured} == {
        (name, size) for name in names for size in (16, 24)
    }
    assert all(line["seconds"] > 0 and line["machine"]["threads"] == 1 for line in measured)
    with Image.open(tmp_path / "out" / "operators.png") as plot:
        assert plot.width > 500


def test_what_lies_under_transparent_pixels_of_the_image_is_not_trained_on(nlsr, here, tmp_path, monkeypatch):
    seen = []

    def trained_features(pixels):
        seen.append(pixels)
        return pixels.repeat(1, 22, 1, 1)[:, :64]

    monkeypatch.setattr("nlsr.benchmark.quality.trained_features", trained_features)
    image = Image.effect_noise((40, 40), 60).convert("RGBA")
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (10, 5, 30, 25))
    for hidden in ("black", "white"):
        image.paste(hidden, (10, 5, 30, 25))
        image.putalpha(alpha)
        image.save(tmp_path / "a.png")
        words = ["kmeans", "--size", 16, "--channels", 16, "--repeats", 1, "--image", tmp_path / "a.png"]
        assert nlsr("benchmark", "operators", *words)[0] == 0
    assert torch.equal(*seen)


def test_a_stack_that_shares_is_held_against_one_that_does_not(nlsr, here):
    words = ["kmeans", "superbit", "--stack", "--size", 24, "--channels", 16, "--repeats", 1, "--threads", 1]
    code, out, err = nlsr("benchmark", "operators", *words)
    assert code == 0, err
    assert "| 10 modules | size | all match | one matches | saved by sharing | kmeans shared saves |" in out
    assert out.count("24²") == 2


def test_what_takes_too_long_is_a_row_and_larger_maps_are_not_tried(nlsr, monkeypatch):
    monkeypatch.setattr("nlsr.benchmark.operators.Worker.ask", slow)
    words = ["dense", "--size", 16, "--size", 24, "--repeats", 1]
    code, out, _ = nlsr("benchmark", "operators", *words)
    assert code == 0
    assert "| dense | more than 120 s | not tried: a smaller map failed |  |  |  |" in out


def slow(self, request, *arguments, limit):
    if request == "run":
        raise Failed(f"more than {limit:.0f} s")


def test_an_unknown_operator_is_refused(nlsr):
    code, _, err = nlsr("benchmark", "operators", "none-such")
    assert (code, "operator: expected one of kmeans, hash" in err) == (2, True)
