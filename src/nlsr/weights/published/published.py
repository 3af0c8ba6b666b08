"""What a reader of published files is made of. Published parameter spellings live in this folder and nowhere else."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Tensors = dict[str, Tensor]
Rule = tuple[str, str | tuple[str, ...] | None]
"""A pattern of whole published names, and ours. Several names of ours share a tensor's rows evenly; None drops it."""
Rules = list[Rule]
"""The first that matches counts."""

END = r"\.(weight|bias)"
"""What follows the name of a layer."""
WEIGHT = r"\.(weight)"
"""What follows the name of a layer without bias."""

COLOUR_SHIFTS = {"sub_mean": -1.0, "add_mean": 1.0}
"""Fixed convolutions of EDSR's descendants -> how often their bias holds the mean colour."""


@dataclass(frozen=True)
class Published:
    """How to read the files of one network."""

    sizes: Callable[[Tensors], dict[str, Any]]
    """What names and shapes say of the config; KeyError names what is not there."""
    rules: Callable[[Tensors, Any], Rules]
    """Published names to ours, given tensors and config."""
    ends: tuple[str, str] | None = None
    """Patterns of the names of the first convolution's weight, and of the last one's weight and bias, in networks that
    were trained on values up to 1 or up to 255."""


def commonest_size(tensors: Tensors, pattern: str, axis: int = 0) -> int:
    """The size that most tensors of such a name have along an axis: one wrong tensor does not mislead.

    Raises: KeyError with the pattern where there is none.
    """
    sizes = Counter(t.shape[axis] for name, t in tensors.items() if re.fullmatch(pattern, name) and t.ndim > axis)
    if not sizes:
        raise KeyError(pattern.replace("\\", ""))
    return sizes.most_common(1)[0][0]


def layers(theirs: str, ours: str, names: dict[str, str], end: str = END) -> Rules:
    """Rules for layers of some names: `theirs`, a published name and `end` become `ours`, our name and what ends it."""
    last = re.compile(theirs).groups + 1
    return [(theirs + name + end, rf"{ours}{names[name]}.\{last}") for name in names]


def count(tensors: Tensors, pattern: str) -> int:
    """One more than the largest number that the group of the pattern takes; 0 where no name matches."""
    found = [int(m[1]) for name in tensors if (m := re.fullmatch(pattern, name))]
    return max(found, default=-1) + 1
