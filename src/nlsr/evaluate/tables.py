"""Evaluations as text: the papers' table, with the protocol in words below it."""

from nlsr.evaluate.evaluation import Evaluation
from nlsr.evaluate.protocols import PROTOCOLS


def markdown(evaluation: Evaluation) -> str:
    """One evaluation as a Markdown table: a row per image, the mean, the protocol, and the images left out."""
    mean = evaluation.mean
    lines = [
        f"### {_cell(evaluation.data)} ×{evaluation.scale}",
        "",
        "| image | size | PSNR (dB) | SSIM |",
        "|---|---:|---:|---:|",
        *(_line(row.name, "{1}×{0}".format(*row.size), row.psnr, row.ssim) for row in evaluation.rows),
        _line(f"mean of {len(evaluation.rows)}", "", mean.psnr, mean.ssim),
        "",
        f"Protocol `{evaluation.protocol}`: {PROTOCOLS[evaluation.protocol].words}.",
    ]
    if evaluation.failures:
        lines += ["", f"Left out, and not in the mean ({len(evaluation.failures)}):", ""]
        lines += [f"- {_cell(failure.name)}: {_cell(failure.reason)}" for failure in evaluation.failures]
    return "\n".join(lines) + "\n"


def _line(name: str, size: str, psnr: float, ssim: float) -> str:
    return f"| {_cell(name)} | {size} | {psnr:.2f} | {ssim:.4f} |"


def _cell(text: str) -> str:
    """A file name may hold what would end a cell or a line."""
    return " ".join(text.split()).replace("|", "\\|")
