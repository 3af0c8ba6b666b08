"""The bicubic rows of the benchmark sets, per image and mean, from a folder that is not part of the repository.

The numbers were made by an independent implementation of MATLAB's `imresize` whose low-res images equal published
ones in every value; `bicubic_baseline.json` in that folder holds them and the protocol in words.
"""

import json
import os
from pathlib import Path

import pytest

from nlsr.evaluate import bicubic, evaluate

TOLERANCE = {"psnr": 1e-4, "ssim": 1e-5}


@pytest.fixture(scope="module")
def data() -> Path:
    folder = os.environ.get("NLSR_DATA")
    if not folder:
        pytest.skip("set NLSR_DATA to the folder that holds bicubic_baseline.json and eval/<set>/*.png to run this")
    return Path(folder)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["Set5", "Set14", "Urban100-20"])
def test_bicubic_equals_the_baseline(data: Path, name: str, scale: int) -> None:
    expected = json.loads((data / "bicubic_baseline.json").read_text())["sets"][name][f"x{scale}"]
    result = evaluate(bicubic(scale), data / "eval" / name, scale=scale)
    assert not result.failures
    assert {Path(row.name).stem: list(row.size[::-1]) for row in result.rows} == {
        image: values["hr_size"] for image, values in expected["images"].items()
    }
    pairs = [(result.mean.psnr, result.mean.ssim, expected["mean"])]
    pairs += [(row.psnr, row.ssim, expected["images"][Path(row.name).stem]) for row in result.rows]
    assert max(abs(psnr - values["psnr"]) for psnr, _, values in pairs) <= TOLERANCE["psnr"]
    assert max(abs(ssim - values["ssim"]) for _, ssim, values in pairs) <= TOLERANCE["ssim"]
