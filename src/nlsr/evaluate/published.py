"""Numbers that the authors of networks published, to stand beside ours. Only those that could be read at their source
are here: none are known for LCoAN, DLSN and ASID.
"""

import re
from dataclasses import dataclass

from nlsr.evaluate.evaluation import Evaluation
from nlsr.evaluate.metrics import Score
from nlsr.evaluate.protocols import LUMA_FIRST

SIZES = {"Set5": 5, "Set14": 14, "B100": 100, "Urban100": 100, "Manga109": 109}
"""Images of the sets: a mean over fewer is of another set."""

_ALIASES = {"bsd100": "b100", "bsds100": "b100"}


@dataclass(frozen=True)
class Published:
    """Means of one network over data sets."""

    source: str
    protocol: str
    """The one of ours that computes as the authors did, or is nearest to it."""
    scores: dict[int, dict[str, Score]]
    """By scale and data set."""

    def score(self, evaluation: Evaluation) -> Score | None:
        """What was published for the set of an evaluation; None where it is another set or lacks images."""
        for data, score in self.scores.get(evaluation.scale, {}).items():
            whole = len(evaluation.rows) == SIZES[data] and not evaluation.failures
            if whole and _plain(data) == _plain(evaluation.data):
                return score
        return None


def _plain(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return _ALIASES.get(plain, plain)


def _scores(*rows: tuple[float, ...]) -> dict[str, Score]:
    return {data: Score(*row) for data, row in zip(SIZES, rows, strict=False)}


PUBLISHED = {
    "atd-light": Published(
        "Zhang et al., CVPR 2024, the results in its repository",
        "luma",
        {
            2: _scores((38.29, 0.9616), (34.10, 0.9217), (32.39, 0.9023), (33.27, 0.9375), (39.52, 0.9789)),
            3: _scores((34.74, 0.9300), (30.68, 0.8485), (29.32, 0.8109), (29.17, 0.8709), (34.60, 0.9506)),
            4: _scores((32.63, 0.8998), (28.89, 0.7886), (27.79, 0.7440), (26.97, 0.8107), (31.48, 0.9198)),
        },
    ),
    "bicubic": Published(
        "the bicubic rows of the papers",
        LUMA_FIRST,
        {
            2: _scores((33.66, 0.9299), (30.24, 0.8688)),
            3: _scores((30.39, 0.8682), (27.55, 0.7742)),
            4: _scores((28.42, 0.8104), (26.00, 0.7027)),
        },
    ),
    "catanet": Published(
        "Liu et al., CVPR 2025, table 2, as quoted by others; of results neither clipped nor rounded to 8 bits",
        "luma",
        {
            2: _scores((38.28, 0.9617), (33.99, 0.9217), (32.37, 0.9023), (33.09, 0.9372), (39.37, 0.9784)),
            3: _scores((34.75, 0.9300), (30.67, 0.8481), (29.28, 0.8101), (29.04, 0.8689), (34.40, 0.9499)),
            4: _scores((32.58, 0.8998), (28.90, 0.7880), (27.75, 0.7427), (26.87, 0.8081), (31.31, 0.9183)),
        },
    ),
    "csnln": Published(
        "Mei et al., CVPR 2020, table 1",
        "edsr",
        {
            2: _scores((38.28, 0.9616), (34.12, 0.9223), (32.40, 0.9024), (33.25, 0.9386), (39.37, 0.9785)),
            3: _scores((34.74, 0.9300), (30.66, 0.8482), (29.33, 0.8105), (29.13, 0.8712), (34.45, 0.9502)),
            4: _scores((32.68, 0.9004), (28.95, 0.7888), (27.80, 0.7439), (27.22, 0.8168), (31.43, 0.9201)),
        },
    ),
    "enlcn": Published(
        "Xia et al., AAAI 2022, the table in its repository; SSIM by a script that is not there",
        "edsr",
        {
            2: _scores((38.37, 0.9618), (34.17, 0.9229), (32.49, 0.9032), (33.56, 0.9398), (39.64, 0.9791)),
            4: _scores((32.67, 0.9004), (28.94, 0.7892), (27.82, 0.7452), (27.12, 0.8141), (31.33, 0.9188)),
        },
    ),
    "nlsn": Published(
        "Mei et al., CVPR 2021, as quoted in arXiv 2404.00722, table 1",
        "edsr",
        {
            2: _scores((38.34, 0.9618), (34.08, 0.9231), (32.43, 0.9027), (33.42, 0.9394), (39.59, 0.9789)),
            3: _scores((34.85, 0.9306), (30.70, 0.8485), (29.34, 0.8117), (29.25, 0.8726), (34.57, 0.9508)),
            4: _scores((32.59, 0.9000), (28.87, 0.7891), (27.78, 0.7444), (26.96, 0.8109), (31.27, 0.9184)),
        },
    ),
    "pan": Published(
        "Zhao et al., ECCV 2020 workshops, the test logs in its repository",
        "luma",
        {
            2: _scores(
                (38.0007, 0.96049), (33.5927, 0.91805), (32.1812, 0.89973), (32.0147, 0.92733), (38.7006, 0.97729)
            ),
            3: _scores(
                (34.4003, 0.92717), (30.3553, 0.84220), (29.1045, 0.80491), (28.1068, 0.85104), (33.5833, 0.94476)
            ),
            4: _scores(
                (32.1311, 0.89481), (28.6107, 0.78215), (27.5914, 0.73627), (26.1060, 0.78544), (30.5145, 0.90952)
            ),
        },
    ),
    "pft-light": Published(
        "Long et al., CVPR 2025, the results in its repository",
        "luma",
        {
            2: _scores((38.36, 0.9620), (34.20, 0.9233), (32.43, 0.9030), (33.67, 0.9411), (39.55, 0.9792)),
            3: _scores((34.82, 0.9305), (30.75, 0.8493), (29.33, 0.8116), (29.46, 0.8763), (34.61, 0.9509)),
            4: _scores((32.63, 0.9002), (28.97, 0.7899), (27.78, 0.7442), (27.20, 0.8171), (31.51, 0.9204)),
        },
    ),
}
"""By the name of the preset; the sets in the order of `SIZES`."""
