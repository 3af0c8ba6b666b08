"""Networks applied in turn as if they were one, and where they come from."""

import math
import os
from copy import deepcopy
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nlsr.errors import UsageError
from nlsr.networks import Network
from nlsr.upscale.size import passes
from nlsr.weights import family, load


class Cascade(nn.Module):
    """Networks applied in turn; of none of them, the identity."""

    def __init__(self, networks: list[Network]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.scales = tuple(network.scale for network in networks)
        self.scale = math.prod(self.scales)

    def forward(self, low_res: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 sh sw"]:
        upscaled = low_res
        for index, network in enumerate(self.networks):
            upscaled = network(upscaled.float().clamp(0, 1) if index else upscaled)
        return upscaled

    def bytes_per_pixel(self) -> int:
        """Peak memory per low-res pixel, beyond the weights: that of the pass which needs most."""
        needs, before = [0], 1
        for network in self.networks:
            assert isinstance(network, Network)
            needs.append(network.bytes_per_pixel() * before**2)
            before *= network.scale
        return max(needs)

    @property
    def before_last(self) -> int:
        """How far a tile is enlarged before the last pass: what that pass sees is this times as large."""
        return math.prod(self.scales[:-1])


class Models:
    """The networks that a name stands for, one for each scale, loaded when they are needed.

    A name is that of packaged weights ("lcoan-light-x4"), of a family of them ("lcoan-light"), or of a file.
    """

    def __init__(self, model: str | Path | Network, device: torch.device) -> None:
        """Raises: CheckpointError for a model that cannot be loaded, UsageError for one that does not enlarge."""
        self.device = device
        if not isinstance(model, str | os.PathLike | Network):
            raise UsageError(f"expected a name of weights, a file or a network of nlsr, got {type(model).__name__}")
        self._names = {} if isinstance(model, Network) else family(str(model))
        self._networks: dict[int, Network] = {}
        if not self._names:
            network = deepcopy(model) if isinstance(model, Network) else load(model)
            self._networks[network.scale] = self._prepared(network)
        self.scales = tuple(sorted(self._names or self._networks))
        if self.scales[0] < 2:
            raise UsageError(f"expected a model that enlarges, got one of scale {self.scales[0]}")

    def cascade(self, scale: float) -> Cascade:
        """The networks that reach a scale."""
        return Cascade([self.network(step) for step in passes(scale, self.scales)])

    def network(self, scale: int) -> Network:
        """The one that computes at a scale of `scales`: never the caller's."""
        if scale not in self._networks:
            self._networks[scale] = self._prepared(load(self._names[scale]))
        return self._networks[scale]

    def _prepared(self, network: Network) -> Network:
        # Convolutions of few channels are up to three times as fast on a processor if channels lie together.
        return network.eval().to(self.device, torch.float32).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
