"""What a reader of published files is made of. Published parameter spellings live in this folder and nowhere else."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Tensors = dict[str, Tensor]
Rules = list[tuple[str, str | None]]
"""Patterns of whole published names, and ours; None drops the tensor. The first that matches counts."""


@dataclass(frozen=True)
class Published:
    """How to recognise and read the files of one network."""

    mark: str
    """A pattern for the name of a tensor that files of this network have, and no others."""
    sizes: Callable[[Tensors], dict[str, Any]]
    """What names and shapes say of the config; KeyError, ValueError or ZeroDivisionError where they are not whole."""
    rules: Callable[[Tensors, Any], Rules]
    """Published names to ours, given tensors and config."""


def has(tensors: Tensors, pattern: str) -> bool:
    """Whether a tensor has such a name."""
    return any(re.fullmatch(pattern, name) for name in tensors)


def count(tensors: Tensors, pattern: str) -> int:
    """One more than the largest number that the group of the pattern takes; 0 where no name matches."""
    found = [int(m[1]) for name in tensors if (m := re.fullmatch(pattern, name))]
    return max(found, default=-1) + 1
