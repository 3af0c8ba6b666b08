"""Pixel attention: a gate per channel and position. Not an affinity: no position draws on another.

Source: PAN, arXiv 2010.01073.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PixelAttention(nn.Module):
    """features * sigmoid(conv1x1(features))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return features * torch.sigmoid(self.gate(features))


class PixelAttentionConv(nn.Module):
    """A convolution gated by pixel attention on its input, then a second convolution; no bias but in the gate."""

    def __init__(self, channels: int, *, kernel_size: int = 3) -> None:
        super().__init__()
        self.gate = nn.Conv2d(channels, channels, 1)
        self.first = nn.Conv2d(channels, channels, kernel_size, padding="same", bias=False)
        self.second = nn.Conv2d(channels, channels, kernel_size, padding="same", bias=False)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.second(self.first(features) * torch.sigmoid(self.gate(features)))
