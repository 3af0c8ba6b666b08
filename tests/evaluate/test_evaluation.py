"""A folder is evaluated image by image; what cannot be evaluated is named."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nlsr.errors import ImageError, NlsrError, UsageError
from nlsr.evaluate import PROTOCOLS, PairFolder, bicubic, evaluate, markdown, psnr, ssim
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
    assert [(row.name, row.size, row.psnr, row.ssim) for row in result.rows] == expected
    assert (result.data, result.scale, result.protocol, result.failures) == ("Set2", 3, "luma", ())
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


def test_images_that_fail_are_named_and_the_others_go_on(folder: Path) -> None:
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


def test_dictionary_is_strict_json_and_holds_everything(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"not an image")
    result = evaluate(bicubic(2), folder, scale=2)
    loaded = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert loaded == result.as_dict()
    assert loaded["protocol"] == {"name": "luma", "words": PROTOCOLS["luma"].words}
    assert loaded["mean"] == {"psnr": result.mean.psnr, "ssim": result.mean.ssim}
    assert loaded["rows"][0] == {
        "name": "a.png", "size": [40, 38], "psnr": result.rows[0].psnr, "ssim": result.rows[0].ssim
    }  # fmt: skip
    assert loaded["failures"][0]["name"] == "broken.png"
    assert (loaded["data"], loaded["scale"]) == ("Set2", 2)


def test_infinite_psnr_stays_strict_json(folder: Path) -> None:
    result = evaluate(lambda low_res: low_res, folder, scale=1)
    assert result.mean == (float("inf"), 1.0)
    loaded = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert float(loaded["mean"]["psnr"]) == float(loaded["rows"][1]["psnr"]) == float("inf")


def test_markdown_shows_rows_mean_protocol_and_failures(folder: Path) -> None:
    save(folder / "odd|name.png", 30, 50, seed=2)
    (folder / "broken.png").write_bytes(b"not an image")
    result = evaluate(bicubic(3), folder, scale=3)
    lines = markdown(result).splitlines()
    a = result.rows[0]
    assert lines[0] == "### Set2 ×3"
    assert lines[2] == "| image | size | PSNR (dB) | SSIM |"
    assert lines[4] == f"| a.png | 39×39 | {a.psnr:.2f} | {a.ssim:.4f} |"
    assert lines[5].startswith("| b.png | 48×30 | ")
    assert lines[6].startswith("| odd\\|name.png | 48×30 | ")
    assert lines[7] == f"| mean of 3 |  | {result.mean.psnr:.2f} | {result.mean.ssim:.4f} |"
    assert lines[9] == f"Protocol `luma`: {PROTOCOLS['luma'].words}."
    assert lines[11] == "Left out, and not in the mean (1):"
    assert lines[13].startswith("- broken.png: ")


def test_markdown_without_failures_ends_with_the_protocol(folder: Path) -> None:
    text = markdown(evaluate(bicubic(3), folder, scale=3))
    assert text.endswith(f"{PROTOCOLS['luma'].words}.\n")
