"""Tests of optional libraries, each in an environment of its own: `.ci/run` makes them. Elsewhere they are not run."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("torchvision") is None:
    sys.path.append(str(Path(__file__).parent / "stand_in"))
