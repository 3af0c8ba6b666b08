"""Published numbers stand beside ours only where the set is the one they are about."""

from itertools import pairwise

import pytest

from nlsr.evaluate import PROTOCOLS, PUBLISHED, Evaluation, Failure, Row, Score
from nlsr.evaluate.protocols import WORDS


def evaluation(data: str, count: int, *, scale: int = 4, failures: tuple[Failure, ...] = ()) -> Evaluation:
    scores = dict.fromkeys(PROTOCOLS, Score(30.0, 0.9))
    return Evaluation(data, scale, tuple(Row(f"{i}.png", (8, 8), scores) for i in range(count)), failures)


@pytest.mark.parametrize(
    ("network", "data", "count", "scale", "psnr", "ssim"),
    [
        ("pan", "Set5", 5, 2, 38.0007, 0.96049),
        ("pan", "Set5", 5, 3, 34.4003, 0.92717),
        ("pan", "set_5", 5, 4, 32.1311, 0.89481),
        ("nlsn", "B100", 100, 2, 32.43, 0.9027),
        ("nlsn", "BSD100", 100, 2, 32.43, 0.9027),
        ("csnln", "Urban100", 100, 4, 27.22, 0.8168),
        ("enlcn", "Manga109", 109, 2, 39.64, 0.9791),
        ("pft-light", "Set5", 5, 4, 32.63, 0.9002),
        ("atd-light", "Urban100", 100, 2, 33.27, 0.9375),
        ("catanet", "Set5", 5, 3, 34.75, 0.9300),
        ("bicubic", "Set14", 14, 3, 27.55, 0.7742),
    ],
)
def test_numbers_are_found_by_set_and_scale(
    network: str, data: str, count: int, scale: int, psnr: float, ssim: float
) -> None:
    assert PUBLISHED[network].score(evaluation(data, count, scale=scale)) == (psnr, ssim)


def test_a_part_of_a_set_is_another_set() -> None:
    pan = PUBLISHED["pan"]
    assert pan.score(evaluation("Set5", 4)) is None
    assert pan.score(evaluation("Urban100-20", 20)) is None
    assert pan.score(evaluation("Set5", 5, failures=(Failure("x", "y"),))) is None
    assert PUBLISHED["enlcn"].score(evaluation("Set5", 5, scale=3)) is None


def test_numbers_are_plausible_and_fall_with_the_scale() -> None:
    for name, published in PUBLISHED.items():
        assert published.protocol in WORDS, name
        means = [dict(published.scores[scale]) for scale in sorted(published.scores)]
        for smaller, larger in pairwise(means):
            for data in larger:
                assert smaller[data].psnr - larger[data].psnr > 1, (name, data)
                assert 1 > smaller[data].ssim > larger[data].ssim > 0.5, (name, data)
