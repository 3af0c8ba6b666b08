"""Channel attention: every channel draws on all channels, within groups of positions. Not an affinity: no position
draws on another.

Source: ASID, arXiv 2501.15774.
"""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.attention.affinity import matching_dtype
from nlsr.attention.streamed import in_graph

Pattern = Literal["window", "grid"]

# A map, and its groups of positions for each channel.
PATTERNS: dict[Pattern, tuple[str, str]] = {
    "window": ("b c (x i) (y j)", "b (x y) c (i j)"),
    "grid": ("b c (x i) (y j)", "b (i j) c (x y)"),
}


class ChannelAttention(nn.Module):
    """softmax(temperature * cosine(query channel, key channel)) @ values, then a 1x1 convolution.

    Groups are windows of side * side neighbours, or grids of all positions at equal places of their windows. (The
    stride of these grids is the side; that of `SharedWindow`'s is the size of the map divided by the side.)
    """

    def __init__(self, channels: int, *, pattern: Pattern = "window", side: int = 8) -> None:
        """
        Args:
            channels: in and out.
            pattern: neighbours, or positions spread over the map.
            side: side of the windows; 8 as published.
        """
        super().__init__()
        self.pattern, self.side = pattern, side
        self.embed = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.mix = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        self.temperature = nn.Parameter(torch.ones(1, 1, 1))
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """A map that is not a multiple of the side has smaller groups at its lower and right end."""
        height, width = features.shape[2:]
        map, groups = PATTERNS[self.pattern]
        sizes = {"i": self.side, "j": self.side, "x": -(-height // self.side)}
        drawn = rearrange(self._attend(*self._group(features)), f"{groups} -> {map}", **sizes)
        return self.project(drawn[:, :, :height, :width])

    def _group(self, features: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b g c n"]]:
        """Query, key and values of each group."""
        height, width = features.shape[2:]
        map, groups = PATTERNS[self.pattern]
        embedded = self.mix(self.embed(features))
        # Zeros beyond the map add nothing to norms and products.
        embedded = F.pad(embedded, (0, -width % self.side, 0, -height % self.side))
        parts = embedded.chunk(3, dim=1)
        if in_graph():  # copies: what can be viewed otherwise depends on the number of images
            parts = tuple(part.clone(memory_format=torch.contiguous_format) for part in parts)
        return [rearrange(part, f"{map} -> {groups}", i=self.side, j=self.side) for part in parts]

    def _attend(
        self, query: Float[Tensor, "b g c n"], key: Float[Tensor, "b g c n"], values: Float[Tensor, "b g c n"]
    ) -> Float[Tensor, "b g c n"]:
        with torch.autocast(query.device.type, enabled=False):
            query, key = (F.normalize(part.to(matching_dtype(part.dtype)), dim=-1) for part in (query, key))
            weights = F.softmax(query @ key.transpose(2, 3) * self.temperature.to(query.dtype), dim=-1)
        return weights.to(values.dtype) @ values
