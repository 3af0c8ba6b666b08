"""One network from several trainings of it: the mean of their weights, which is often better than each of them.

Source: arXiv 1803.05407 (along one training), arXiv 2203.05482 (of trainings from one start).
"""

from collections.abc import Sequence
from copy import deepcopy

import torch

from nlsr.errors import UsageError
from nlsr.networks import Network


@torch.no_grad()
def average(networks: Sequence[Network]) -> Network:
    """The mean of every parameter and floating-point buffer; other buffers are those of the first.

    The networks should come from one start: between networks that were trained apart, the mean is worth nothing.

    Raises: UsageError if there are not two, or if their configs differ.
    """
    if len(networks) < 2:
        raise UsageError(f"expected two networks or more to average, got {len(networks)}")
    first = networks[0]
    for other in networks[1:]:
        if type(other) is not type(first) or other.config != first.config:
            raise UsageError(f"expected networks of one config, got {first.config} and {other.config}")
    mean = deepcopy(first)
    states = [network.state_dict() for network in networks]
    for name, tensor in mean.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.stack([state[name] for state in states]).mean(0))
    return mean
