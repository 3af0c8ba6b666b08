"""Optional dependencies: what is missing says how to install it."""

import re
import sys
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec
from pathlib import Path

from nlsr.errors import UsageError


def require(module: str, *, extra: str) -> None:
    """Raises: UsageError with the command that installs the extra, if the module is missing."""
    if find_spec(module) is None:
        raise UsageError(f"this needs '{module}'; install it with: {installing(extra)}")


def installing(extra: str) -> str:
    """The command that installs what an extra needs beside this very nlsr, however that came here."""
    try:
        declared = requires("nlsr") or []
    except PackageNotFoundError:  # a source tree on the path
        declared = []
    needed = [text.split(";")[0].strip() for text in declared if re.search(rf"\bextra\s*==\s*['\"]{extra}['\"]", text)]
    return installing_packages(*(needed or [f"nlsr[{extra}]"]))


def installing_packages(*requirements: str) -> str:
    """The same for packages by name. Quotes are those that every shell knows."""
    words = " ".join(f'"{text}"' if re.search(r"[^\w.-]", text) else text for text in requirements)
    environment, python = Path(sys.prefix), f'"{sys.executable}"' if " " in sys.executable else sys.executable
    if (environment / "pipx_metadata.json").exists():
        return f"pipx inject nlsr {words}"
    if find_spec("pip") is None:  # uv makes such environments, also those of its tools
        return f"uv pip install --python {python} {words}"
    return f"{python} -m pip install {words}"
