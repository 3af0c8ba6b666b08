"""Functions of images that are no networks of ours, with what the upscaler must know of them: scale and memory."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nlsr.errors import UsageError
from nlsr.live_memory import bytes_per_pixel

PROBE_SIDES = 64, 128
"""Sides of the images on which memory is counted; what larger ones need grows with their pixels."""


class Foreign(nn.Module):
    """Any module or function from an image to a larger one."""

    def __init__(self, function: Callable[[Tensor], Tensor], scale: int | None = None) -> None:
        """
        Args:
            function: takes RGB in [0, 1], (1, 3, height, width) of any size, and gives (1, 3, scale * height, scale *
                width). If it has a method `bytes_per_pixel`, as our networks do, its memory is not measured.
            scale: by default the attribute `scale` of the function.
        Raises: UsageError if the scale is neither given nor an attribute, or the function does not give such images.
        """
        super().__init__()
        scale = getattr(function, "scale", None) if scale is None else scale
        if type(scale) is not int:
            raise UsageError(f"expected model_scale, how many times larger {_name(function)} makes an image")
        self.function, self.scale, self.name = function, scale, f"{_name(function)} x{scale}"
        self._bytes_per_pixel: int | None = None

    def forward(self, low_res: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 sh sw"]:
        return self.function(low_res)

    def bytes_per_pixel(self) -> int:
        """Peak memory per low-res pixel, beyond the weights; counted once, on two small images."""
        if self._bytes_per_pixel is None:
            own = getattr(self.function, "bytes_per_pixel", None)
            self._bytes_per_pixel = int(own()) if callable(own) else self._counted()
        return self._bytes_per_pixel

    def _counted(self) -> int:
        device = next((weight.device for weight in self.parameters()), torch.device("cpu"))
        return bytes_per_pixel(self._checked, PROBE_SIDES, device=device)

    def _checked(self, image: Tensor) -> Tensor:
        side = image.shape[-1]
        try:
            upscaled = self.function(image)
        except Exception as error:  # another's code may fail in any way
            raise UsageError(f"{self.name} fails on a {side}x{side} image: {error}") from error
        expected = (1, 3, self.scale * side, self.scale * side)
        if not isinstance(upscaled, Tensor) or tuple(upscaled.shape) != expected:
            got = tuple(upscaled.shape) if isinstance(upscaled, Tensor) else type(upscaled).__name__
            raise UsageError(f"{self.name}: expected {expected} of a {side}x{side} image, got {got}")
        return upscaled


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))
