"""nlsr: non-local super-resolution.

    import nlsr

    larger = nlsr.Upscaler()("photo.jpg")      # a tensor; the command `nlsr upscale photo.jpg` writes a file
    network = nlsr.load("lcoan-light-x4")      # packaged weights, our files, or published ones

Names below are imported when they are first used, so that `import nlsr` and the command's help cost nothing.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from nlsr.default import DEFAULT_MODEL
from nlsr.errors import CheckpointError, ImageError, NlsrError, NlsrWarning, RecipeError, ShapeError, UsageError

if TYPE_CHECKING:
    from nlsr.images import read, write
    from nlsr.networks import create
    from nlsr.upscale import Upscaler
    from nlsr.weights import load, save_network

_LAZY = {
    "Upscaler": "nlsr.upscale",
    "create": "nlsr.networks",
    "load": "nlsr.weights",
    "read": "nlsr.images",
    "save_network": "nlsr.weights",
    "write": "nlsr.images",
}

_ROOMS = (
    "attention",
    "benchmark",
    "evaluate",
    "explain",
    "export",
    "images",
    "networks",
    "train",
    "upscale",
    "weights",
)

__all__ = [
    "DEFAULT_MODEL",
    "CheckpointError",
    "ImageError",
    "NlsrError",
    "NlsrWarning",
    "RecipeError",
    "ShapeError",
    "Upscaler",
    "UsageError",
    "create",
    "load",
    "read",
    "save_network",
    "write",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name in _ROOMS:
        return import_module(f"nlsr.{name}")
    if name == "__version__":
        return version("nlsr")
    raise AttributeError(f"module 'nlsr' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS, "__version__"])
