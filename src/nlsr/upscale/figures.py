"""How fast engines were on this machine when `nlsr benchmark engines` measured them, and which is the fastest.

Nothing is measured here: equal figures give equal choices.
"""

import contextlib
import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from nlsr.cache import cache_folder
from nlsr.files import replacing
from nlsr.machine import processor
from nlsr.upscale.cascade import Models
from nlsr.upscale.engine import ENGINES
from nlsr.upscale.identity import identity


@dataclass(frozen=True)
class Figure:
    """How long a command took with an engine, in seconds."""

    engine: str
    start: float
    """Of everything that is done once, from the start of the program on."""
    picture: float
    """Of each picture, of 256x256 pixels."""

    def seconds(self, pictures: int) -> float:
        return self.start + pictures * self.picture


def fastest(figures: Sequence[Figure], pictures: int) -> str:
    """The engine that takes the least time for so many pictures; torch if nothing is known, and on a tie.

    One picture may be small, and its start all that counts: it is given to no engine that starts later than torch.
    """
    ranks: dict[str, int] = {name: rank for rank, name in enumerate(ENGINES)}
    known = [figure for figure in figures if figure.engine in ranks]
    if pictures == 1:
        latest = min((figure.start for figure in known if figure.engine == "torch"), default=0)
        known = [figure for figure in known if figure.start <= latest]
    if not known:
        return "torch"
    return min(known, key=lambda figure: (figure.seconds(pictures), ranks[figure.engine])).engine


def fastest_of(models: Models, precision: str, pictures: int) -> str:
    """The fastest engine for a model, by the figures of this machine."""
    network = models.network(models.scales[-1])
    return fastest(stored(conditions(identity(network), precision)), pictures)


def conditions(network: str, precision: str) -> dict[str, str]:
    """What figures depend on.

    Args:
        network: its identity.
        precision: as it was asked for.
    """
    installed = {}
    for name in ("nlsr", "torch", "onnxruntime", "openvino"):
        with contextlib.suppress(PackageNotFoundError):
            installed[name] = version(name)
    machine = {"processor": processor(), "system": platform.system(), "threads": str(torch.get_num_threads())}
    return {"network": network, "precision": precision} | machine | installed


def stored(known: dict[str, str]) -> list[Figure]:
    """The figures of these conditions; none if nobody measured them, or if their file is damaged."""
    try:
        content = json.loads(_file(known).read_text(encoding="utf-8"))
        return [Figure(**figure) for figure in content["figures"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def store(known: dict[str, str], figures: Sequence[Figure]) -> Path:
    """Keep figures for `stored`. Raises: OSError if the cache cannot be written."""
    path = _file(known)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"conditions": known, "figures": [asdict(figure) for figure in figures]}
    with replacing(path) as file:
        file.write(json.dumps(content, indent=1).encode())
    return path


def _file(known: dict[str, str]) -> Path:
    name = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]
    return cache_folder() / "engines" / f"{name}.json"
