"""Optional dependencies: what is missing says how to install it."""

from importlib.util import find_spec

from nlsr.errors import UsageError


def require(module: str, *, extra: str) -> None:
    """Raises: UsageError with the command that installs the extra, if the module is missing."""
    if find_spec(module) is None:
        raise UsageError(f"this needs '{module}'; install it with: pip install 'nlsr[{extra}]'")
