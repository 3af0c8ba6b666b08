"""What a match knows of the truth: how many of the positions that really look alike each position can draw on.

What looks alike is known from the high-res image, which no match has seen. Matches are compared by how many keys they
need for how much of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nlsr.attention import Affinity, Operator, build_operator
from nlsr.benchmark.quality import trained_features
from nlsr.errors import UsageError
from nlsr.evaluate import PairFolder
from nlsr.images import APART, high_res_patches
from nlsr.report import Report
from nlsr.weights import load

ALIKE = 16
"""Positions that look most like a query, which should be found."""
QUERIES = 256
"""Positions of each picture, evenly spread, that stand for all."""
LARGEST_SIDE = 256
"""Only the middle of a low-res picture is looked at, up to this side: the truth is found by comparing all pairs."""


@dataclass(frozen=True)
class Recall:
    """One match on a folder of pictures."""

    match: str
    keys: float
    """Positions that a query draws on: the mean."""
    recall: float
    """Share of the `ALIKE` positions that really look most alike among them."""
    pictures: int


@torch.no_grad()
def measure(
    folder: Path,
    *,
    model: str,
    operators: list[str],
    settings: Mapping[str, Any],
    report: Report | None = None,
) -> list[Recall]:
    """The first match of a model, then of operators on the features that it sees, on pictures of a folder.

    An operator takes over those parameters of the model's own that have its names and shapes, as `nearest` does with
    the embedding of `kmeans`; what else it has is untrained.

    Args:
        model: an `lcoan` that matches, by name or file.
        operators: names in `nlsr.attention.OPERATORS`.
        settings: keywords of these operators.
        report: called with the number of pictures done and of all.
    Raises: UsageError for a model without a match, or an operator that cannot be built so.
    """
    network = load(model)
    if not network.operators():
        raise UsageError(f"`model={model}`: this network matches nothing")
    own = network.operators()[0]
    pairs = PairFolder(folder, scale=network.scale)
    shown = ", ".join(f"{name}={value}" for name, value in settings.items())
    found: dict[str, list[tuple[float, float]]] = {}
    for number in range(len(pairs)):
        low_res, high_res = _middle(pairs[number].low_res, pairs[number].high_res, network.scale)
        truth, queries = looks_alike(high_res, network.scale)
        features = trained_features(low_res, model)
        matches = {f"{model}, its own": own}
        for name in operators:
            matches[f"{name} {shown}".strip()] = operator_like(own, name, features.shape[1], settings)
        for name, operator in matches.items():
            found.setdefault(name, []).append(reached(operator.match(features), queries, truth))
        if report:
            report(number + 1, len(pairs))
    means = {name: torch.tensor(rows, dtype=torch.float64).mean(0).tolist() for name, rows in found.items()}
    return [Recall(name, keys, recall, len(pairs)) for name, (keys, recall) in means.items()]


def operator_like(own: Operator, name: str, channels: int, settings: Mapping[str, Any]) -> Operator:
    """An operator with the parameters and buffers of another, where their names and shapes agree."""
    torch.manual_seed(0)
    operator = build_operator(name, channels, {"reduction": _reduction(own, channels)} | dict(settings))
    theirs, ours = own.state_dict(), operator.state_dict()
    operator.load_state_dict(
        {key: theirs[key] if key in theirs and theirs[key].shape == ours[key].shape else ours[key] for key in ours}
    )
    return operator.eval()


def looks_alike(high_res: Float[Tensor, "1 3 sh sw"], scale: int) -> tuple[Int[Tensor, "q n"], Int[Tensor, " q"]]:
    """For evenly spread positions of the low-res map those whose high-res patches are nearest to their own; and the
    evenly spread positions."""
    patches = high_res_patches(high_res, scale)[0]
    height, width = patches.shape[:2]
    length = height * width
    queries = torch.linspace(0, length - 1, min(QUERIES, length)).round().long().unique()
    rows, columns = queries // width, queries % width
    asked = patches[rows, columns].flatten(1)
    distances = torch.empty(len(queries), height, width)
    for row in range(height):
        distances[:, row] = torch.cdist(asked, patches[row].flatten(1))
    far = (
        (torch.arange(height) - rows[:, None])
        .abs()[:, :, None]
        .maximum((torch.arange(width) - columns[:, None]).abs()[:, None])
    )
    distances.masked_fill_(far <= APART, torch.inf)
    return distances.flatten(1).topk(min(ALIKE, length), largest=False).indices, queries


def reached(affinity: Affinity, queries: Int[Tensor, " q"], truth: Int[Tensor, "q n"]) -> tuple[float, float]:
    """Mean number of keys of a query, and the share of the truth among them."""
    drawn = affinity.rows(queries)[0] > 0
    return drawn.sum(1).double().mean().item(), drawn.gather(1, truth).double().mean().item()


def _middle(low_res: Tensor, high_res: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    sides = [min(side, LARGEST_SIDE) for side in low_res.shape[2:]]
    top, left = ((side - kept) // 2 for side, kept in zip(low_res.shape[2:], sides, strict=True))
    low_res = low_res[:, :, top : top + sides[0], left : left + sides[1]].contiguous()
    top, left, height, width = (scale * number for number in (top, left, *sides))
    return low_res, high_res[:, :, top : top + height, left : left + width].contiguous()


def _reduction(own: Operator, channels: int) -> int:
    embed = getattr(own, "embed", None)
    return 1 if embed is None else channels // embed.weight.shape[0]
