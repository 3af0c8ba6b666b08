"""A network that someone else's code computes, behind the interface of ours. Knows nothing of where it came from."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from nlsr.attention import Keep
from nlsr.errors import ShapeError
from nlsr.images.formats.quiet import quiet
from nlsr.networks.network import Collect, Network, NetworkDraws
from nlsr.networks.parts import check_low_res

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the grey picture of a network that colours it. BT.601."""

Compute = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ForeignConfig:
    """What is known of a foreign network."""

    scale: int
    """1 for networks that remove noise, blur or compression without enlarging."""
    architecture: str
    """Its name where it comes from."""
    input_channels: int
    """1 for grey, 3 for RGB, 4 for RGB and opacity."""
    output_channels: int
    bytes_per_pixel: int
    """Peak memory per low-res pixel, beyond the weights; measured."""
    half_precisions: tuple[str, ...] = ()
    """Those of bf16 and fp16 that it is made for."""


class ForeignNetwork(Network):
    """A module of another library. A grey network sees the three channels one by one, a network of four channels sees
    every pixel as opaque."""

    config: ForeignConfig

    def __init__(self, config: ForeignConfig, module: nn.Module, compute: Compute) -> None:
        """
        Args:
            module: holds the weights that `compute` computes with.
            compute: from one image (1, input_channels, h, w) in [0, 1] of any size to the upscaled one.
        Raises: ShapeError for other channels than 1, 3 or 4.
        """
        super().__init__(config)
        if config.input_channels not in (1, 3, 4) or config.output_channels not in (1, 3, 4):
            raise ShapeError(
                f"expected a network of 1, 3 or 4 channels, got {config.input_channels} in and "
                f"{config.output_channels} out"
            )
        self.module, self._compute = module, compute

    def _upscale(
        self, low_res: Float[Tensor, "b 3 h w"], *, draws: NetworkDraws | None, keep: Keep, collect: Collect
    ) -> Float[Tensor, "b 3 sh sw"]:
        check_low_res(low_res)
        with quiet:
            return torch.cat([self._one(image[None]) for image in low_res])

    def _one(self, image: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 3 sh sw"]:
        config = self.config
        if config.input_channels == 1 and config.output_channels == 1:
            grey = bool((image == image[:, :1]).all())
            channels = image[:, :1] if grey else rearrange(image, "1 c h w -> c 1 h w")
            upscaled = torch.cat([self._compute(channel[None]) for channel in channels])
            return rearrange(upscaled, "c 1 h w -> 1 c h w").expand(-1, 3, -1, -1)
        if config.input_channels == 1:
            image = (image * image.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        elif config.input_channels == 4:
            image = torch.cat((image, torch.ones_like(image[:, :1])), dim=1)
        upscaled = self._compute(image)
        return upscaled.expand(-1, 3, -1, -1) if config.output_channels == 1 else upscaled[:, :3]

    def bytes_per_pixel(self) -> int:
        """As measured when the file was first seen."""
        return self.config.bytes_per_pixel
