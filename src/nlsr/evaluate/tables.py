"""Evaluations as text: Markdown to read, CSV and JSON for programs. Every number stands beside the protocol's name."""

import csv
import io
from dataclasses import dataclass
from typing import Any

from nlsr.evaluate.evaluation import Evaluation, plain_scores
from nlsr.evaluate.metrics import Score
from nlsr.evaluate.models import Model
from nlsr.evaluate.protocols import PAPERS, WORDS
from nlsr.evaluate.published import PUBLISHED, Published
from nlsr.images import one_line


@dataclass(frozen=True, eq=False)
class EvaluatedModel:
    """One model on one data set."""

    model: Model
    evaluation: Evaluation

    @property
    def title(self) -> str:
        return f"{self.model.name} on {self.evaluation.data}, x{self.evaluation.scale}"

    @property
    def published(self) -> tuple[Published, Score] | None:
        """The authors' numbers, if the weights are theirs, the data set is whole, and the protocol was used."""
        published = PUBLISHED.get(self.model.published_as or "")
        if published is None:
            return None
        score = published.score(self.evaluation)
        return None if score is None or published.protocol not in self.evaluation.means else (published, score)

    @property
    def how(self) -> str:
        """What else than the weights decides about the numbers, in words; empty for whole images upscaled once."""
        identity = self.model.identity
        words = []
        if identity.get("tiles", "none") != "none":
            words.append(
                "in tiles as published" if identity["tiles"] == "published" else f"tiles of {identity['tiles']}"
            )
        if identity.get("redraw") is not None:
            words.append(f"directions drawn anew for every image, seed {identity['redraw']}")
        if identity.get("ensemble"):
            words.append("mean of eight flips and turns")
        words += [f"{key} = {value}" for key, value in identity.get("settings", {}).items()]
        return "; ".join(words)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {"model": self.model.name, "network": self.model.network, "identity": self.model.identity}
        plain |= self.evaluation.as_dict()
        if self.published is not None:
            published, score = self.published
            ours = self.evaluation.means[published.protocol]
            plain["published"] = {
                "source": published.source,
                "protocol": published.protocol,
                **score._asdict(),
                "difference": plain_scores({"ours": _difference(ours, score)})["ours"],
            }
        return plain


def markdown(result: EvaluatedModel) -> str:
    """One result as a table: a row per image, the mean, published numbers, and the images left out."""
    evaluation = result.evaluation
    protocols = list(evaluation.means)
    lines = [f"## {_cell(result.title)}", ""]
    if result.how:
        lines += [_cell(result.how[0].upper() + result.how[1:]) + ".", ""]
    lines += [
        f"| PSNR (dB) / SSIM | size | {' | '.join(protocols)} |",
        f"|---|---:|{'---:|' * len(protocols)}",
        *(_line(row.name, "{1}×{0}".format(*row.size), row.scores, protocols) for row in evaluation.rows),
        _line(f"mean of {len(evaluation.rows)}", "", evaluation.means, protocols),
    ]
    if result.published is not None:
        published, score = result.published
        difference = _difference(evaluation.means[published.protocol], score)
        signed = f"{difference.psnr:+.4f} / {difference.ssim:+.5f}"
        lines.append(_line("published", "", {published.protocol: score}, protocols, digits=(4, 5)))
        cells = [signed if name == published.protocol else "" for name in protocols]
        lines.append(f"| ours minus published |  | {' | '.join(cells)} |")
        lines += ["", f"Published: {published.source}."]
    if evaluation.failures:
        lines += ["", f"Left out, and not in the mean ({len(evaluation.failures)}):", ""]
        lines += [f"- {_cell(failure.name)}: {_cell(failure.reason)}" for failure in evaluation.failures]
    return "\n".join(lines) + "\n"


def summary(results: list[EvaluatedModel]) -> str:
    """The means of all results under the papers' protocol, a row per model and a column per data set."""
    sets = list(dict.fromkeys(_set(result) for result in results))
    models = list(dict.fromkeys(result.model.name for result in results))
    means = {(result.model.name, _set(result)): result.evaluation.mean for result in results}
    lines = [
        f"## All, `{PAPERS}`",
        "",
        f"| PSNR (dB) / SSIM | {' | '.join(map(_cell, sets))} |",
        f"|---|{'---:|' * len(sets)}",
    ]
    for model in models:
        cells = [_score(means[model, each]) if (model, each) in means else "" for each in sets]
        lines.append(f"| {_cell(model)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def protocols_in_words(results: list[EvaluatedModel]) -> str:
    """What each column means."""
    names = dict.fromkeys(name for result in results for name in result.evaluation.means)
    lines = [f"- `{name}`: {WORDS[name]}; a mean is the mean over images." for name in names]
    return "\n".join(["## Protocols", "", *lines]) + "\n"


def report(results: list[EvaluatedModel]) -> str:
    """Everything as Markdown."""
    parts = [markdown(result) for result in results]
    if len(results) > 1:
        parts.append(summary(results))
    return "\n".join([*parts, protocols_in_words(results)])


COLUMNS = (
    "model", "network", "data", "scale", "image", "width", "height", "protocol",
    "psnr", "ssim", "published_psnr", "published_ssim", "psnr_difference", "ssim_difference",
)  # fmt: skip
"""The columns of the CSV. A line without an image is a mean; published numbers stand in such lines only."""


def as_csv(results: list[EvaluatedModel]) -> str:
    """A line per image and protocol, then a line per mean."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for result in results:
        evaluation = result.evaluation
        common = {
            "model": result.model.name,
            "network": result.model.network,
            "data": evaluation.data,
            "scale": evaluation.scale,
        }
        for row in evaluation.rows:
            height, width = row.size
            place = {"image": one_line(row.name), "width": width, "height": height}
            for name, score in row.scores.items():
                writer.writerow(common | place | {"protocol": name} | _csv_score(score))
        for name, score in evaluation.means.items():
            line = common | {"protocol": name} | _csv_score(score)
            if result.published is not None and result.published[0].protocol == name:
                target = result.published[1]
                line |= {f"published_{key}": value for key, value in target._asdict().items()}
                difference = _csv_score(_difference(score, target))
                line |= {f"{key}_difference": value for key, value in difference.items()}
            writer.writerow(line)
    return text.getvalue()


def _difference(ours: Score, published: Score) -> Score:
    return Score(ours.psnr - published.psnr, ours.ssim - published.ssim)


def _set(result: EvaluatedModel) -> str:
    return f"{result.evaluation.data} x{result.evaluation.scale}"


def _csv_score(score: Score) -> dict[str, str]:
    return {"psnr": f"{score.psnr:.6f}", "ssim": f"{score.ssim:.8f}"}


def _line(
    name: str, size: str, scores: dict[str, Score], protocols: list[str], *, digits: tuple[int, int] = (2, 4)
) -> str:
    cells = [_score(scores[protocol], digits) if protocol in scores else "" for protocol in protocols]
    return f"| {_cell(name)} | {size} | {' | '.join(cells)} |"


def _score(score: Score, digits: tuple[int, int] = (2, 4)) -> str:
    return f"{score.psnr:.{digits[0]}f} / {score.ssim:.{digits[1]}f}"


def _cell(text: str) -> str:
    """A file name may hold what would end a cell or a line, or be no text."""
    return one_line(" ".join(text.split())).replace("|", "\\|")
