"""Whether every operator and every network computes on an accelerator what it computes on the processor.

    python benchmarks/devices.py [cuda]

In float64 (float32 on MPS, which has no other), values and gradients, untrained weights, sizes that no window divides.
Prints the largest difference over the largest value, and ends with 1 if one exceeds its bound.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor, nn

from nlsr.attention import OPERATORS, Keep, Operator
from nlsr.networks import PRESETS, create

CHANNELS = 32
SIZE = 37, 29


def main(device: str) -> int:
    dtype = torch.float32 if device == "mps" else torch.float64
    bound = 1e-3 if dtype == torch.float32 else 1e-9
    worst = 0.0
    for name in OPERATORS:
        for keep in get_args(Keep):
            found, seconds = compared(lambda name=name, keep=keep: of_operator(name, keep), device, dtype)
            print(f"operator {name:20} {keep:11} {found:8.1e} {seconds:6.1f} s", flush=True)
            worst = max(worst, found)
    for name in PRESETS:
        found, seconds = compared(lambda name=name: of_network(name), device, dtype)
        print(f"network  {name:32} {found:8.1e} {seconds:6.1f} s", flush=True)
        worst = max(worst, found)
    print(f"largest {worst:.1e}, bound {bound:.0e}")
    return int(worst > bound)


Computation = Callable[[Any, Tensor], Tensor]


def compared(
    make: Callable[[], tuple[nn.Module, Tensor, Computation]], device: str, dtype: torch.dtype
) -> tuple[float, float]:
    """Largest difference of values and gradients on a device and on the processor, over the largest value of each."""
    began, results = time.perf_counter(), []
    for place in ("cpu", device):
        module, given, compute = make()
        module, given = module.to(place, dtype), given.to(place, dtype).requires_grad_()
        made = compute(module, given)
        made.square().mean().backward()
        results.append([made.detach().cpu(), given.grad.cpu()])
    differences = [(a - b).abs().max() / a.abs().max() for a, b in zip(*results, strict=True)]
    return float(max(differences)), time.perf_counter() - began


def of_operator(name: str, keep: Keep) -> tuple[nn.Module, Tensor, Computation]:
    torch.manual_seed(0)
    operator = OPERATORS[name](CHANNELS)
    features = torch.randn(2, CHANNELS, *SIZE, generator=torch.Generator().manual_seed(1))

    def compute(operator: Operator, features: Tensor) -> Tensor:
        affinity = operator.match(features, keep=keep)
        values = torch.randn(2, affinity.num_keys, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        return affinity.aggregate(values.to(features))

    return operator, features, compute


def of_network(name: str) -> tuple[nn.Module, Tensor, Computation]:
    network = create(name, scale=2).eval()
    picture = torch.rand(1, 3, 6, 5, generator=torch.Generator().manual_seed(1))
    picture = nn.functional.interpolate(picture, size=SIZE, mode="bicubic").clamp(0, 1)
    return network, picture, lambda network, picture: network(picture)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "cuda"))
