"""Weights of a part of a published network, by the rules for whole files."""

import re

from torch import nn

from nlsr.weights.published import PUBLISHED
from tests.checks.case import Case


def fill(part: nn.Module, case: Case, published: str, ours: str) -> nn.Module:
    """Load a part in eval mode.

    Args:
        published, ours: what its names begin with in a whole file, and in a whole network.
    """
    rules, renamed = PUBLISHED[case.system].rules({}, None), {}
    for name, tensor in case.weights().items():
        matched = ((re.fullmatch(pattern, published + name), new) for pattern, new in rules)
        match, names = next((match, new) for match, new in matched if match)
        if isinstance(names, str):
            renamed[match.expand(names).removeprefix(ours)] = tensor
        elif names is not None:
            for new, piece in zip(names, tensor.chunk(len(names)), strict=True):
                renamed[match.expand(new).removeprefix(ours)] = piece
    part.load_state_dict(renamed)
    return part.eval()
