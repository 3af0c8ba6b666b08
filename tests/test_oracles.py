"""Published code's own numbers: each file in a folder is one case, reproduced within its own tolerance.

A file holds inputs, weights and outputs of the published code, and says in its metadata how they were made. The folder
is `tests/oracles`, or the one named by NLSR_ORACLES. A file that no check understands is a failure.
"""

import os
from pathlib import Path

import pytest
import torch

from tests.checks import (
    asid,
    atd,
    catanet,
    csnln,
    enlcn,
    imresize,
    lcoan,
    levattention,
    nlan,
    pan,
    pft,
    smfanet,
    sparse,
)
from tests.checks.case import Case

FOLDER = Path(os.environ.get("NLSR_ORACLES", Path(__file__).parent / "oracles"))
FILES = sorted(FOLDER.glob("*.safetensors"))
MODULES = asid, atd, catanet, csnln, enlcn, imresize, lcoan, levattention, nlan, pan, pft, smfanet, sparse
CHECKS = {system: check for module in MODULES for system, check in module.CHECKS.items()}


def test_there_are_cases():
    assert FILES, f"no oracle files in {FOLDER}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_published_numbers_are_reproduced(path, tmp_path):
    case = Case(path)
    kind = case.config.get("cls", case.config.get("class", case.level)).removeprefix("nn.Sequential of ")
    check = CHECKS.get((case.system, kind))
    assert check is not None, f"{path.name}: no check for {case.system} ({kind})"
    with torch.no_grad():
        check(case, tmp_path)
