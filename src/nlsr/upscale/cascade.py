"""Networks applied in turn as if they were one, and where they come from."""

import math
import os
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nlsr.errors import UsageError
from nlsr.memory import shown
from nlsr.networks import ForeignNetwork, Network
from nlsr.upscale.foreign import Foreign
from nlsr.upscale.size import passes
from nlsr.weights import family, find, load

Run = Callable[[Any, Tensor], Tensor]
"""A network and images -> upscaled images."""


class Cascade(nn.Module):
    """Networks applied in turn; of none of them, the identity."""

    def __init__(self, networks: Sequence[Network | Foreign]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.scales = tuple(network.scale for network in networks)
        self.scale = math.prod(self.scales)

    def forward(self, low_res: Float[Tensor, "b 3 h w"], run: Run | None = None) -> Float[Tensor, "b 3 sh sw"]:
        """
        Args:
            run: runs a network on images; by default the network itself does.
        """
        upscaled = low_res
        for index, network in enumerate(self.networks):
            seen = upscaled.float().clamp(0, 1) if index else upscaled
            upscaled = network(seen) if run is None else run(network, seen)
        return upscaled

    def bytes_per_pixel(self, *, graph_share: float | None = None) -> int:
        """Peak memory per low-res pixel, beyond the weights: that of the pass which needs most.

        Args:
            graph_share: of an engine that runs graphs, against torch; it holds the weights of attentions as well.
        """
        needs, before = [0.0], 1
        for network in self.networks:
            assert isinstance(network, Network | Foreign)
            need = float(network.bytes_per_pixel())
            if graph_share is not None and isinstance(network, Network):
                weights = max((operator.floats_in_graph() for operator in network.operators()), default=0)
                need = need * graph_share + 4 * weights
            needs.append(need * before**2)
            before *= network.scale
        return round(max(needs))

    @property
    def before_last(self) -> int:
        """How far a tile is enlarged before the last pass: what that pass sees is this times as large."""
        return math.prod(self.scales[:-1])


class Models:
    """The networks that a name stands for, one for each scale, loaded when they are needed.

    A name is that of packaged weights ("lcoan-light-x4"), of a family of them ("lcoan-light"), or of a file.
    """

    def __init__(
        self, model: Any, device: torch.device, *, model_scale: int | None = None, limit: int | None = None
    ) -> None:
        """
        Args:
            limit: the memory in bytes that weights may take.
        Raises: CheckpointError for a model that cannot be loaded, UsageError for one that is larger than the limit.
        """
        self.device = device
        is_named = isinstance(model, str | os.PathLike)
        if not is_named and not callable(model):
            raise UsageError(f"expected a name of weights, a file, a network or a function, got {type(model).__name__}")
        if model_scale is not None and (is_named or isinstance(model, Network)):
            raise UsageError("model_scale: belongs to a function, a network knows its own; leave it out")
        self._names = family(str(model)) if is_named else {}
        self._networks: dict[int, Network | Foreign] = {}
        if not self._names:
            if is_named and limit is not None:
                _check_weights(find(model), limit)
            network = load(model) if is_named else _copied(model, model_scale)
            self._networks[network.scale] = self._prepared(network)
        self.scales = tuple(sorted(self._names or self._networks))

    def cascade(self, scale: float) -> Cascade:
        """The networks that reach a scale. Raises: UsageError if the model does not enlarge and should."""
        if self.scales == (1,):
            if scale > 1:
                raise UsageError(
                    f"expected a size up to that of the picture, as this model does not enlarge; got x{scale:g}"
                )
            return Cascade([self.network(1)])
        return Cascade([self.network(step) for step in passes(scale, self.scales)])

    def network(self, scale: int) -> Network | Foreign:
        """The one that computes at a scale of `scales`: never the caller's."""
        if scale not in self._networks:
            self._networks[scale] = self._prepared(load(self._names[scale]))
        return self._networks[scale]

    @property
    def half_precisions(self) -> tuple[str, ...] | None:
        """Those that a network of another library is made for; None for ours and for functions, of which nothing is
        known."""
        for network in self._networks.values():
            if isinstance(network, ForeignNetwork):
                return network.config.half_precisions
        return None

    def _prepared(self, network: Network | Foreign) -> Network | Foreign:
        # Convolutions of few channels are up to three times as fast on a processor if channels lie together.
        return network.eval().to(self.device, torch.float32).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _copied(model: Any, scale: int | None) -> Network | Foreign:
    """The caller's stays as it is."""
    model = deepcopy(model) if isinstance(model, nn.Module) else model
    return model if isinstance(model, Network) else Foreign(model, scale)


def _check_weights(path: Path, limit: int) -> None:
    """Raises: UsageError for a file that is larger than the memory it may take."""
    size = path.stat().st_size if path.is_file() else 0
    if size > limit:
        raise UsageError(f"{path}: the weights alone take {shown(size)}, `memory` allows {shown(limit)}")
