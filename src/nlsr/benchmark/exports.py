"""How far exported files are from torch: every network in every format, on the sizes that each export is proved on."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from nlsr.benchmark.networks import build
from nlsr.errors import ExportError, UsageError
from nlsr.export import FORMATS
from nlsr.export.formats import open_made
from nlsr.export.graph import record
from nlsr.export.proof import SIZES, Proof, check, compare
from nlsr.networks import PRESETS, Network
from nlsr.report import Report
from nlsr.tables import markdown
from nlsr.weights import load


@dataclass(frozen=True)
class Row:
    """One network in one format."""

    name: str
    scale: int
    to: str
    largest: tuple[float, ...]
    """Difference from torch on each of the sizes of a proof; empty if there is no file."""
    share: float = 0
    """Of the values that differ by more than 0.001, on the size where they are most."""
    lost_db: float = 0
    failure: str = ""
    """Why there is no file, or why it would not be handed over."""


def measure(
    names: Sequence[str], *, scale: int, formats: Sequence[str] = (), report: Report | None = None
) -> Iterator[Row]:
    """The rows of a table, one by one.

    Args:
        names: presets, which are taken untrained, and names of weights or weight files.
        scale: of the presets.
        formats: all by default.
        report: called with the number of files done and of all.
    Raises: UsageError for an unknown format and a missing extra.
    """
    formats = formats or tuple(FORMATS)
    for to in formats:
        if to not in FORMATS:
            raise UsageError(f"`to={to}`: expected {', '.join(FORMATS)}")
        FORMATS[to].require()
    for number, name in enumerate(names):
        network = with_effect(build(name, scale)) if name in PRESETS else load(name)
        for index, row in enumerate(_rows(name, network, formats)):
            yield row
            if report:
                report(number * len(formats) + index + 1, len(names) * len(formats))


def complete(path: Path, *, scale: int, formats: Sequence[str] = ()) -> list[Row]:
    """The rows of an earlier run whose networks are complete, in the order of the run; none if there is no such file.

    Args:
        path: of its JSON lines.
        scale: of the presets.
        formats: that a network needs; all by default.
    Raises: UsageError for a file of another kind.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        told = [json.loads(line) for line in lines]
        rows = [Row(**each | {"largest": tuple(each["largest"])}) for each in told]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path}: expected the rows of an earlier run; leave out `resume`") from error
    rows = [row for row in rows if row.scale == scale or row.name not in PRESETS]
    done = {(row.name, row.to) for row in rows}
    return [row for row in rows if all((row.name, to) in done for to in formats or FORMATS)]


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    sizes = [f"{width}x{height}" for height, width in SIZES]
    lines = [["network", "format", *sizes, "share above 0.001", "lost dB", "failure"]]
    for row in rows:
        differences = [f"{each:.1e}" for each in row.largest] or [""] * len(sizes)
        numbers = [f"{row.share:.2%}", f"{abs(row.lost_db):.4f}"] if row.largest else ["", ""]
        lines.append([row.name, row.to, *differences, *numbers, row.failure])
    return markdown(lines, words=2)


@torch.no_grad()
def with_effect(network: Network) -> Network:
    """Weights that start at zero, drawn: an attention that starts as the identity would hide what it computes."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.any():
            deviation = module.weight[0].numel() ** -0.5
            module.weight.copy_(deviation * torch.randn(module.weight.shape, generator=generator))
    return network


def _rows(name: str, network: Network, formats: Sequence[str]) -> Iterator[Row]:
    try:
        program = record(network)
    except UsageError as error:
        yield from (Row(name, network.scale, to, (), failure=str(error)) for to in formats)
        return
    for to in formats:
        form = FORMATS[to]
        with tempfile.TemporaryDirectory(prefix="nlsr-") as folder:
            path = Path(folder) / f"m{form.suffix}"
            try:
                form.write(program, path, {})
                proof = compare(network, open_made(form, path))
            except ExportError as error:
                yield Row(name, network.scale, to, (), failure=str(error))
                continue
        yield Row(
            name,
            network.scale,
            to,
            tuple(each.largest for each in proof.differences),
            proof.share,
            proof.lost_db,
            _failure(proof),
        )


def _failure(proof: Proof) -> str:
    try:
        check(proof)
    except ExportError as error:
        return str(error)
    return ""
