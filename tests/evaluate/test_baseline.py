"""The bicubic rows of the benchmark sets, per image and mean, from a folder that is not part of the repository.

The numbers were made by an independent implementation of MATLAB's `imresize` whose low-res images equal published
ones in every value; `bicubic_baseline.json` in that folder holds them and the protocol in words.
"""

import json
import os
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest

from nlsr.evaluate import PUBLISHED, Evaluation, bicubic_model, evaluate

TOLERANCE = {"psnr": 1e-4, "ssim": 1e-5}


@pytest.fixture(scope="module")
def data() -> Path:
    folder = os.environ.get("NLSR_DATA")
    if not folder:
        pytest.skip("set NLSR_DATA to the folder that holds bicubic_baseline.json and eval/<set>/*.png to run this")
    return Path(folder)


ROUTES = {"luma": [], "luma-first": ["y_route"]}
"""Protocol -> where its numbers stand in the file."""


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["Set5", "Set14", "Urban100-20"])
def test_bicubic_equals_the_baseline(data: Path, name: str, scale: int) -> None:
    baseline = json.loads((data / "bicubic_baseline.json").read_text())
    model = bicubic_model(scale)
    result = evaluate(model.upscale, data / "eval" / name, scale=scale, enlarge_luma=model.enlarge_luma)
    assert not result.failures
    sizes = {Path(row.name).stem: list(row.size[::-1]) for row in result.rows}
    assert sizes == {image: row["hr_size"] for image, row in baseline["sets"][name][f"x{scale}"]["images"].items()}
    checked = [
        check(result, protocol, reduce(getitem, [*path, "sets"], baseline).get(name))
        for protocol, path in ROUTES.items()
    ]
    assert checked[0]


def check(result: Evaluation, protocol: str, expected: dict[str, Any] | None) -> bool:
    """Means and images against one route of the file, if the route has the set."""
    if expected is None:
        return False
    values = expected[f"x{result.scale}"]
    pairs = [(result.means[protocol], values["mean"])]
    pairs += [(row.scores[protocol], values["images"][Path(row.name).stem]) for row in result.rows]
    for metric, tolerance in TOLERANCE.items():
        assert max(abs(getattr(score, metric) - target[metric]) for score, target in pairs) <= tolerance
    return True


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("name", "tolerance"), [("Set5", (0.005, 1e-4)), ("Set14", (0.02, 1e-3))])
def test_luma_first_is_the_route_of_published_rows(
    data: Path, name: str, scale: int, tolerance: tuple[float, float]
) -> None:
    model = bicubic_model(scale)
    result = evaluate(model.upscale, data / "eval" / name, scale=scale, enlarge_luma=model.enlarge_luma)
    published = PUBLISHED["bicubic"].score(result)
    assert published is not None
    assert result.means["luma-first"].psnr == pytest.approx(published.psnr, abs=tolerance[0])
    assert result.means["luma-first"].ssim == pytest.approx(published.ssim, abs=tolerance[1])
