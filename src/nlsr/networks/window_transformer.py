"""The trunk that ATD and PFT share: an image continued by its mirror image to whole windows, stages of transformer
layers on normed features, and two ways to enlarge."""

from abc import abstractmethod
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.attention import Keep
from nlsr.attention.affinity import map_size, to_map, to_tokens
from nlsr.attention.streamed import in_graph
from nlsr.mirror import mirrored
from nlsr.networks.network import Collect, Network, NetworkDraws
from nlsr.networks.parts import DirectUpsampler, EdsrUpsampler, check_low_res, factors, mean_colour

Upsampler = Literal["direct", "classical"]
"""One convolution to all values of a pixel, as the light networks have, or several at 64 channels."""
NARROW = 64
"""Channels of the classical upsampler."""


class WindowTransformer(Network):
    """A network of stages of layers that attend within windows. A subclass says which layers."""

    def __init__(self, config: Any) -> None:
        """Raises: ShapeError for another scale than 2, 3 or 4, or if sizes do not fit each other."""
        super().__init__(config)
        factors(config.scale)
        channels = config.channels
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.first_norm = nn.LayerNorm(channels)
        self.stages = nn.ModuleList(self._stage(index) for index in range(len(config.depths)))
        self.last_norm = nn.LayerNorm(channels)
        self.fuse = nn.Conv2d(channels, channels, 3, padding=1)
        if config.upsampler == "direct":
            self.upsample: nn.Module = DirectUpsampler(channels, config.scale)
        else:
            self.narrow = nn.Conv2d(channels, NARROW, 3, padding=1)
            self.upsample = EdsrUpsampler(NARROW, config.scale)

    @abstractmethod
    def _stage(self, index: int) -> nn.Module: ...

    @abstractmethod
    def _refine(self, features: Float[Tensor, "b c h w"], *, collect: Collect) -> Float[Tensor, "b c h w"]:
        """What the stages make of the features of an image of whole windows."""

    def _upscale(
        self, low_res: Float[Tensor, "b 3 h w"], *, draws: NetworkDraws | None, keep: Keep, collect: Collect
    ) -> Float[Tensor, "b 3 sh sw"]:
        """The affinities are those of the continued image. Each is used once, so that none is stored: making weights
        takes longer than a fused kernel does.

        As published, what continues the image is not masked: a result depends on the size of the image modulo that of a
        window.
        """
        check_low_res(low_res)
        mean, (height, width) = mean_colour(low_res), map_size(low_res)
        shallow = self.head(continued(low_res - mean, self.config.window_size))
        deep = self._refine(on_tokens(self.first_norm, shallow), collect=collect)
        features = shallow + self.fuse(on_tokens(self.last_norm, deep))
        if self.config.upsampler == "classical":
            features = F.leaky_relu(self.narrow(features))
        upscaled = self.upsample(features)[:, :, : self.scale * height, : self.scale * width]
        return upscaled + mean


def on_tokens(layer: nn.Module, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
    """A layer of tokens on a map."""
    return to_map(layer(to_tokens(features)), *map_size(features))


def continued(image: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b c hh ww"]:
    """Continued at the bottom and at the right to multiples, by its mirror image, the edge once more first; a small one
    again and again."""
    for axis in (2, 3):
        length = image.shape[axis]
        if in_graph() or length % multiple:
            whole = (length + multiple - 1) // multiple * multiple  # ONNX rounds what is below zero to zero
            places = mirrored(0, whole, length, image.device)
            image = image.index_select(axis, places)
    return image
