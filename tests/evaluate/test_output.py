"""A folder of results: equal runs give equal files, an interrupted one continues, what changed is computed again."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from nlsr.errors import UsageError
from nlsr.evaluate import PROTOCOLS, EvaluatedModel, Model, PairFolder, bicubic_model, evaluate, load_model
from nlsr.evaluate.output import Output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "Set4"
    folder.mkdir()
    for seed in range(4):
        save(folder / f"{seed}.png", seed=seed)
    return folder


def save(path: Path, *, seed: int) -> None:
    size = (40 + 3 * seed, 52 - 2 * seed, 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)).save(path)


class Counted:
    """Bicubic that counts how often it is asked, and may be stopped."""

    def __init__(self, *, stop_at: int | None = None, name: str = "counted") -> None:
        self.calls = 0
        self.stop_at = stop_at
        self.model = replace(bicubic_model(2), name=name, identity={"model": name}, upscale=self.upscale)

    def upscale(self, low_res: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return bicubic_model(2).upscale(low_res)


def run(model: Model, data: Path, output: Path) -> EvaluatedModel:
    folder = Output(output)
    session = folder.session(model, data)
    protocols = tuple(PROTOCOLS)
    evaluation = evaluate(session.upscale, data, scale=2, protocols=protocols, remember=session.remember)
    result = EvaluatedModel(model, evaluation)
    session.write_worst(result, PairFolder(data, scale=2))
    folder.write([result])
    return result


def contents(folder: Path, *, times: bool = False) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if times or path.name != "timing.json"}


def test_a_second_run_gives_identical_files(folder: Path, tmp_path: Path) -> None:
    first = run(Counted().model, folder, tmp_path / "one")
    second = run(Counted().model, folder, tmp_path / "two")
    assert first.evaluation == second.evaluation
    files = contents(tmp_path / "one")
    assert sorted(files) == ["records.jsonl", "results.csv", "results.json", "results.md", "worst-counted-Set4-x2.png"]
    assert contents(tmp_path / "two") == files


def test_a_run_over_its_own_results_computes_nothing_and_changes_nothing(folder: Path, tmp_path: Path) -> None:
    result = run(Counted().model, folder, tmp_path / "out")
    before = contents(tmp_path / "out", times=True)
    again = Counted()
    assert run(again.model, folder, tmp_path / "out").evaluation == result.evaluation
    assert again.calls == 0
    assert contents(tmp_path / "out", times=True) == before


def test_an_interrupted_run_goes_on_and_ends_like_one_that_was_not(folder: Path, tmp_path: Path) -> None:
    stopped = Counted(stop_at=4)
    with pytest.raises(KeyboardInterrupt):
        run(stopped.model, folder, tmp_path / "out")
    with (tmp_path / "out" / "records.jsonl").open("a") as file:
        file.write('{"key": "unfinis')  # as a killed process may leave it
    on = Counted()
    run(on.model, folder, tmp_path / "out")
    run(Counted().model, folder, tmp_path / "whole")
    # One image of the rest, and the worst of those of the first run once more, for the picture.
    assert on.calls <= 1 + 3
    again = Counted()
    run(again.model, folder, tmp_path / "out")
    assert again.calls == 0
    ended, whole = contents(tmp_path / "out"), contents(tmp_path / "whole")
    del ended["records.jsonl"], whole["records.jsonl"]
    assert ended == whole
    assert set(json.loads((tmp_path / "out" / "timing.json").read_text()).popitem()[1]) == {
        f"{i}.png" for i in range(4)
    }


def test_a_changed_image_and_a_changed_model_are_computed_again(folder: Path, tmp_path: Path) -> None:
    run(Counted().model, folder, tmp_path / "out")
    save(folder / "1.png", seed=9)
    changed = Counted()
    result = run(changed.model, folder, tmp_path / "out")
    assert changed.calls >= 1
    assert result.evaluation == evaluate(bicubic_model(2).upscale, folder, scale=2, protocols=tuple(PROTOCOLS))
    run(Counted().model, folder, tmp_path / "fresh")
    sheet = "worst-counted-Set4-x2.png"
    assert contents(tmp_path / "out")[sheet] == contents(tmp_path / "fresh")[sheet]
    other = Counted(name="other")
    run(other.model, folder, tmp_path / "out")
    assert other.calls == 4


def test_changed_weights_are_computed_again_under_the_same_name(
    folder: Path, tmp_path: Path, write_weights: Callable[[Path, int], None]
) -> None:
    weights = tmp_path / "weights.safetensors"
    results = []
    for seed in (0, 1):
        write_weights(weights, seed)
        results.append(run(load_model(str(weights)), folder, tmp_path / "out").evaluation)
    assert results[0] != results[1]


@pytest.fixture
def write_weights() -> Callable[[Path, int], None]:
    import torch

    from nlsr.networks import PAN, PANConfig
    from nlsr.weights import save_network

    def write(path: Path, seed: int) -> None:
        torch.manual_seed(seed)
        save_network(path, PAN(PANConfig(2, channels=8, upsampler_channels=8, num_blocks=1)))

    return write


def test_equal_images_of_different_names_keep_their_names(folder: Path, tmp_path: Path) -> None:
    (folder / "9.png").write_bytes((folder / "0.png").read_bytes())
    result = run(Counted().model, folder, tmp_path / "out")
    assert [row.name for row in result.evaluation.rows] == ["0.png", "1.png", "2.png", "3.png", "9.png"]
    assert result.evaluation.rows[4].scores == result.evaluation.rows[0].scores


def test_tables_hold_every_number(folder: Path, tmp_path: Path) -> None:
    result = run(Counted().model, folder, tmp_path / "out")
    evaluation = result.evaluation
    with (tmp_path / "out" / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == (4 + 1) * len(PROTOCOLS)
    for line in lines:
        scores = {row.name: row.scores for row in evaluation.rows}.get(line["image"], evaluation.means)
        assert float(line["psnr"]) == pytest.approx(scores[line["protocol"]].psnr, abs=1e-6)
        assert float(line["ssim"]) == pytest.approx(scores[line["protocol"]].ssim, abs=1e-8)
    loaded = json.loads((tmp_path / "out" / "results.json").read_text())
    assert loaded["results"] == [json.loads(json.dumps(result.as_dict()))]
    text = (tmp_path / "out" / "results.md").read_text()
    assert "## counted on Set4, x2" in text
    assert "seconds" not in text + json.dumps(loaded)
    timing = json.loads((tmp_path / "out" / "timing.json").read_text())
    assert [set(spent) for spent in timing[f"counted x2 on {folder}"].values()] == [{"seconds"}] * 4


def test_a_folder_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file: .*; name a folder that can be written to"):
        Output(tmp_path / "file")
