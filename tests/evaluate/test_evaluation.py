"""A folder is evaluated image by image; what cannot be evaluated is named."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nlsr.errors import ImageError, NlsrError, UsageError
from nlsr.evaluate import (
    PROTOCOLS,
    Evaluation,
    PairFolder,
    Row,
    Score,
    bicubic,
    bicubic_model,
    evaluate,
    psnr,
    ssim,
)
from nlsr.images import resize


def save(path: Path, height: int, width: int, *, seed: int = 0) -> None:
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(array).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "Set2"
    folder.mkdir()
    save(folder / "a.png", 41, 39)
    save(folder / "b.png", 30, 50, seed=1)
    return folder


def test_rows_are_the_metrics_of_each_image_and_mean_their_mean(folder: Path) -> None:
    result = evaluate(bicubic(3), folder, scale=3)
    expected = []
    for pair in PairFolder(folder, scale=3):
        upscaled = bicubic(3)(pair.low_res)
        metrics = (metric(upscaled, pair.high_res, border=3).item() for metric in (psnr, ssim))
        expected.append((pair.name, tuple(pair.high_res.shape[-2:]), *metrics))
    assert [(row.name, row.size, *row.scores["luma"]) for row in result.rows] == expected
    assert (result.data, result.scale, list(result.means), result.failures) == ("Set2", 3, ["luma"], ())
    assert result.rows[0].size == (39, 39)
    assert result.mean.psnr == pytest.approx((expected[0][2] + expected[1][2]) / 2)
    assert result.mean.ssim == pytest.approx((expected[0][3] + expected[1][3]) / 2)


def test_bicubic_is_the_resize_of_8_bit_values() -> None:
    low_res = torch.randint(0, 256, (1, 3, 7, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    upscaled = bicubic(4)(low_res.float() / 255)
    assert torch.equal(upscaled, resize(low_res, scale=4.0).float() / 255)


def test_upscale_gets_low_res_without_gradients_in_the_order_of_names(folder: Path) -> None:
    seen: list[tuple[int, ...]] = []
    weight = torch.ones((), requires_grad=True)

    def upscale(low_res: Tensor) -> Tensor:
        assert low_res.dtype == torch.float32
        assert not (low_res * weight).requires_grad
        seen.append(tuple(low_res.shape))
        return bicubic(2)(low_res)

    evaluate(upscale, folder, scale=2)
    assert seen == [(1, 3, 20, 19), (1, 3, 15, 25)]
    assert torch.is_grad_enabled()


def test_equal_calls_give_equal_evaluations(folder: Path) -> None:
    assert evaluate(bicubic(2), folder, scale=2) == evaluate(bicubic(2), folder, scale=2)


def test_progress_counts_every_image(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"")
    calls: list[tuple[int, int]] = []
    evaluate(bicubic(2), folder, scale=2, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_images_that_fail_are_named_and_the_others_are_evaluated(folder: Path) -> None:
    (folder / "a1_broken.png").write_bytes(b"not an image")
    save(folder / "a2_thin.png", 3, 60)
    save(folder / "a3_small.png", 18, 60)
    save(folder / "c_large.png", 36, 48)
    save(folder / "d_wrong.png", 32, 48)

    def upscale(low_res: Tensor) -> Tensor:
        if low_res.shape[-2:] == (9, 12):
            raise NlsrError("does not fit in memory")
        if low_res.shape[-2:] == (8, 12):
            return torch.zeros(1, 3, 8, 12)
        return bicubic(4)(low_res)

    result = evaluate(upscale, folder, scale=4)
    assert [row.name for row in result.rows] == ["a.png", "b.png"]
    reasons = {failure.name: failure.reason for failure in result.failures}
    assert list(reasons) == ["a1_broken.png", "a2_thin.png", "a3_small.png", "c_large.png", "d_wrong.png"]
    assert "a1_broken.png" in reasons["a1_broken.png"]
    assert "4×4 pixels or more" in reasons["a2_thin.png"]
    assert "SSIM needs 11×11" in reasons["a3_small.png"]
    assert reasons["c_large.png"] == "does not fit in memory"
    assert reasons["d_wrong.png"] == (
        "expected an upscaled image (1, 3, 32, 48) at scale 4, got (1, 3, 8, 12); "
        "give the scale that the model was made for"
    )


def test_errors_that_are_not_ours_are_not_swallowed(folder: Path) -> None:
    def upscale(low_res: Tensor) -> Tensor:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        evaluate(upscale, folder, scale=2)


def test_no_image_to_evaluate_is_an_error(folder: Path) -> None:
    with pytest.raises(ImageError, match=r"Set2: none of its 2 images could be .*, a\.png: expected an up"):
        evaluate(bicubic(3), folder, scale=2)


def test_errors_of_the_folder_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no image in this folder"):
        evaluate(bicubic(2), tmp_path, scale=2)
    with pytest.raises(UsageError, match="expected a scale of 1 or more, got 0"):
        evaluate(bicubic(2), tmp_path, scale=0)


def test_memory_that_runs_out_is_a_failure_of_one_image(folder: Path) -> None:
    def upscale(low_res: Tensor) -> Tensor:
        if low_res.shape[-1] == 25:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return bicubic(2)(low_res)

    result = evaluate(upscale, folder, scale=2)
    assert [row.name for row in result.rows] == ["a.png"]
    assert [tuple(vars(failure).values()) for failure in result.failures] == [
        ("b.png", "does not fit in memory; take smaller tiles")
    ]


def test_low_res_images_come_from_a_folder_and_strangers_are_named(folder: Path, tmp_path: Path) -> None:
    low_res = tmp_path / "LR"
    low_res.mkdir()
    save(low_res / "a_x3.png", 13, 13, seed=5)
    save(low_res / "z_x3.png", 13, 13)
    result = evaluate(bicubic(3), folder, scale=3, low_res=low_res)
    pair = PairFolder(folder, scale=3, low_res=low_res)[0]
    assert result.rows[0].scores["luma"] == PROTOCOLS["luma"].measure(bicubic(3)(pair.low_res), pair.high_res, border=3)
    assert [failure.name for failure in result.failures] == ["b.png", "z_x3.png"]
    assert result.failures[1].reason.endswith("z_x3.png: belongs to no high-res image")


def test_protocols_stand_side_by_side(folder: Path) -> None:
    model = bicubic_model(3)
    result = evaluate(model.upscale, folder, scale=3, protocols=tuple(PROTOCOLS), enlarge_luma=model.enlarge_luma)
    assert list(result.means) == [*PROTOCOLS, "luma-first"]
    pair = PairFolder(folder, scale=3)[0]
    for name, protocol in PROTOCOLS.items():
        assert result.rows[0].scores[name] == protocol.measure(model.upscale(pair.low_res), pair.high_res, border=3)


@pytest.mark.parametrize("grey", [True, False])
def test_luma_first_resizes_one_plane_and_rounds_once(tmp_path: Path, grey: bool) -> None:
    array = np.random.default_rng(3).integers(0, 256, (41, 39, 3), dtype=np.uint8)
    Image.fromarray(array[..., 0] if grey else array).save(tmp_path / "a.png")
    model = bicubic_model(2)
    result = evaluate(model.upscale, tmp_path, scale=2, enlarge_luma=model.enlarge_luma)
    values = array[:40, :38].astype(float)
    plane = values[..., 0] if grey else np.rint(16 + values @ np.array([65.481, 128.553, 24.966]) / 255)
    small = resize(torch.from_numpy(plane), scale=0.5)
    large = np.clip(np.floor(resize(small, scale=2).numpy() + 0.5), 0, 255)
    expected = 10 * np.log10(255**2 / ((large - plane)[2:-2, 2:-2] ** 2).mean())
    assert result.means["luma-first"].psnr == pytest.approx(expected, abs=1e-9)


def test_the_worst_come_first_and_nan_before_all() -> None:
    values = {"a": 30.0, "b": 20.0, "c": float("nan"), "d": 25.0}
    rows = tuple(Row(name, (1, 1), {"luma": Score(psnr, 0.5)}) for name, psnr in values.items())
    evaluation = Evaluation("set", 2, rows, ())
    assert [row.name for row in evaluation.worst(3)] == ["c", "b", "d"]


def test_remembered_rows_are_not_computed_again(folder: Path) -> None:
    known = Row("a.png", (1, 1), {"luma": Score(12.0, 0.5)})

    def remember(files: list[Path], compute: Callable[[], Row]) -> Row:
        return known if files[0].name == "a.png" else compute()

    result = evaluate(bicubic(2), folder, scale=2, remember=remember)
    assert result.rows[0] is known
    assert result.rows[1] == evaluate(bicubic(2), folder, scale=2).rows[1]


def test_dictionary_is_strict_json_and_holds_everything(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"not an image")
    result = evaluate(bicubic(2), folder, scale=2)
    loaded = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert loaded == result.as_dict()
    assert loaded["protocols"] == {"luma": PROTOCOLS["luma"].words}
    assert loaded["means"]["luma"] == {"psnr": result.mean.psnr, "ssim": result.mean.ssim}
    scores = {"luma": result.rows[0].scores["luma"]._asdict()}
    assert loaded["images"][0] == {"name": "a.png", "size": [40, 38], "scores": scores}
    assert loaded["failures"][0]["name"] == "broken.png"
    assert (loaded["data"], loaded["scale"]) == ("Set2", 2)


def test_infinite_psnr_stays_strict_json(folder: Path) -> None:
    result = evaluate(lambda low_res: low_res, folder, scale=1)
    assert result.mean == (float("inf"), 1.0)
    loaded = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert (
        float(loaded["means"]["luma"]["psnr"]) == float(loaded["images"][1]["scores"]["luma"]["psnr"]) == float("inf")
    )
