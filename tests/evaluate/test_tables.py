"""Tables for readers: a row per image, a column per protocol, published numbers beside ours."""

from dataclasses import replace

import pytest

from nlsr.evaluate import (
    PROTOCOLS,
    EvaluatedModel,
    Evaluation,
    Failure,
    Model,
    Row,
    Score,
    as_csv,
    bicubic_model,
    markdown,
    report,
)
from nlsr.evaluate.protocols import WORDS


def evaluation(*, data: str = "Set5", count: int = 5, failures: tuple[Failure, ...] = ()) -> Evaluation:
    names = [f"{i}|.png" for i in range(count)]
    rows = [Row(n, (40, 60), dict.fromkeys(PROTOCOLS, Score(30.0 + i, 0.9))) for i, n in enumerate(names)]
    return Evaluation(data, 4, tuple(rows), failures)


def pan(**changes: object) -> Model:
    model = replace(bicubic_model(4), name="PAN.pth", network="pan", published_as="pan")
    return replace(model, **changes)


def test_rows_mean_and_failures_are_shown() -> None:
    failures = (Failure("bad.png", "bad.png: not\na picture"),)
    lines = markdown(EvaluatedModel(bicubic_model(4), evaluation(count=2, failures=failures))).splitlines()
    assert lines[0] == "## bicubic on Set5, x4"
    assert lines[2] == "| PSNR (dB) / SSIM | size | luma | luma-uint8 | rgb | edsr | asid |"
    assert lines[4] == "| 0\\|.png | 60×40 |" + " 30.00 / 0.9000 |" * 5
    assert lines[6] == "| mean of 2 |  |" + " 30.50 / 0.9000 |" * 5
    assert lines[8] == "Left out, and not in the mean (1):"
    assert lines[10] == "- bad.png: bad.png: not a picture"


def test_published_numbers_stand_under_their_protocol_with_the_difference() -> None:
    text = markdown(EvaluatedModel(pan(), evaluation()))
    assert "| published |  | 32.1311 / 0.89481 |  |  |  |  |" in text
    assert "| ours minus published |  | -0.1311 / +0.00519 |  |  |  |  |" in text
    assert "Published: Zhao et al." in text


@pytest.mark.parametrize(
    "result",
    [
        EvaluatedModel(pan(published_as=None), evaluation()),
        EvaluatedModel(pan(published_as="lcoan"), evaluation()),
        EvaluatedModel(pan(), evaluation(count=4)),
        EvaluatedModel(pan(), evaluation(data="Set6")),
    ],
)
def test_published_numbers_are_absent_where_they_are_about_something_else(result: EvaluatedModel) -> None:
    assert result.published is None
    assert "ublished" not in markdown(result)
    assert "published" not in result.as_dict()


def test_csv_and_json_hold_the_difference_too() -> None:
    result = EvaluatedModel(pan(), evaluation())
    line = next(line for line in as_csv([result]).splitlines() if ",,,,luma," in line)
    assert line.endswith("32.000000,0.90000000,32.1311,0.89481,-0.131100,0.00519000")
    published = result.as_dict()["published"]
    assert published["difference"]["psnr"] == pytest.approx(-0.1311)
    assert (published["protocol"], published["ssim"]) == ("luma", 0.89481)


def test_what_decides_beside_the_weights_is_said() -> None:
    identity = {"tiles": "published", "redraw": 7, "ensemble": True, "settings": {"rounds": "2"}}
    text = markdown(EvaluatedModel(pan(identity=identity), evaluation()))
    assert "In tiles as published; directions drawn anew for every image, seed 7; mean of eight" in text
    assert "rounds = 2." in text
    assert "tiles of 64" in EvaluatedModel(pan(identity={"tiles": 64}), evaluation()).how.lower()
    assert EvaluatedModel(bicubic_model(4), evaluation()).how == ""


def test_a_report_ends_with_all_means_and_the_protocols_in_words() -> None:
    results = [
        EvaluatedModel(model, evaluation(data=data)) for model in (bicubic_model(4), pan()) for data in ("Set5", "B")
    ]
    text = report(results)
    assert "| PSNR (dB) / SSIM | Set5 x4 | B x4 |" in text
    assert "| PAN.pth | 32.00 / 0.9000 | 32.00 / 0.9000 |" in text
    for name in PROTOCOLS:
        assert text.count(f"- `{name}`: {WORDS[name]}") == 1
    assert "## All" not in report(results[:1])
