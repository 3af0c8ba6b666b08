"""nlsr: non-local super-resolution.

    import nlsr

    larger = nlsr.Upscaler()("photo.jpg")      # a tensor; the command `nlsr upscale photo.jpg` writes a file
    network = nlsr.load("lcoan-light-x4")      # packaged weights, our files, or published ones

Names below are imported when they are first used, so that `import nlsr` and the command's help cost nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nlsr.errors import CheckpointError, ImageError, NlsrError, RecipeError, ShapeError, UsageError

if TYPE_CHECKING:
    from nlsr.images import read, write
    from nlsr.upscale import Upscaler
    from nlsr.weights import load, save_network

_LAZY = {
    "Upscaler": "nlsr.upscale",
    "load": "nlsr.weights",
    "read": "nlsr.images",
    "save_network": "nlsr.weights",
    "write": "nlsr.images",
}

__all__ = [
    "CheckpointError",
    "ImageError",
    "NlsrError",
    "RecipeError",
    "ShapeError",
    "Upscaler",
    "UsageError",
    "load",
    "read",
    "save_network",
    "write",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'nlsr' has no attribute '{name}'")
    return getattr(import_module(_LAZY[name]), name)
