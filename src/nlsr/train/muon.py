"""Muon: momentum whose directions are made orthogonal, for the weights that are matrices; Adam for all others.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the size of its steps after Liu
et al., "Muon is Scalable for LLM Training", 2025 (arXiv 2502.16982). torch's own takes no convolutions.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

MOMENTUM = 0.95
STEP = 0.4
"""Root mean square of a step of a matrix, in learning rates; so one learning rate serves both parts. Steps 2.5 times as
long learned worse than Adam in a short training; shorter ones were not tried."""
LEAST = 16
"""Rows and columns from which on a weight counts as a matrix."""
COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Odd polynomial that, applied `ITERATIONS` times, brings singular values near 1; of the first source."""
ITERATIONS = 5


class Muon(Optimizer):
    """Weights with at least `LEAST` rows and columns, but the last, take orthogonal steps; the others those of Adam.

    The rows of a convolution are its output channels. Whole weights are needed, not parts of divided ones.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, betas: tuple[float, float], eps: float
    ) -> None:
        """
        Args:
            parameters: those of the network, in its order; the last matrix makes the image.
            betas, eps: those of Adam.
        """
        given = list(parameters)
        matrices = [weight for weight in given if weight.ndim > 1 and min(len(weight), weight[0].numel()) >= LEAST][:-1]
        chosen = {id(weight) for weight in matrices}
        others = [weight for weight in given if id(weight) not in chosen]
        groups = [dict(params=others, orthogonal=False), dict(params=matrices, orthogonal=True)]
        super().__init__([group for group in groups if group["params"]], dict(lr=lr, betas=betas, eps=eps))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            (self._orthogonal if group["orthogonal"] else self._adam)(weights, group)
        return loss

    def _orthogonal(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for weight in weights:
            shapes[weight.shape].append(weight)
        for shape, alike in shapes.items():  # one product for all of a shape
            gradients = [weight.grad for weight in alike if weight.grad is not None]
            momenta = [self._kept(weight, "momentum") for weight in alike]
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            ahead = torch.stack(torch._foreach_lerp(gradients, momenta, MOMENTUM)).flatten(2)  # Nesterov's look ahead
            steps = orthogonalised(ahead) * (STEP * max(ahead.shape[1:]) ** 0.5)
            torch._foreach_add_(alike, list(steps.view(-1, *shape)), alpha=-group["lr"])

    def _adam(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        if not weights:
            return
        first, second = group["betas"]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        means, squares = ([self._kept(weight, name) for weight in weights] for name in ("mean", "square"))
        group["steps"] = done = group.get("steps", 0) + 1
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
        deviations = torch._foreach_div(torch._foreach_sqrt(squares), (1 - second**done) ** 0.5)
        torch._foreach_add_(deviations, group["eps"])
        torch._foreach_addcdiv_(weights, means, deviations, -group["lr"] / (1 - first**done))

    def _kept(self, weight: Tensor, name: str) -> Tensor:
        """A tensor of the state, zero at first."""
        state = self.state[weight]
        if name not in state:
            state[name] = torch.zeros_like(weight)
        return state[name]


def orthogonalised(matrices: Float[Tensor, "b rows columns"]) -> Float[Tensor, "b rows columns"]:
    """Matrices with the same singular vectors and with singular values between 0.7 and 1.2.

    The polynomial is applied to the Gram matrix, whose side is the shorter one, and its product to the matrix once.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalised(matrices.mT).mT
    matrices = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-12)
    linear, cubic, quintic = COEFFICIENTS
    gram = matrices @ matrices.mT
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    product = identity.expand_as(gram)
    for _ in range(ITERATIONS):
        factor = linear * identity + cubic * gram + quintic * (gram @ gram)
        product, gram = factor @ product, factor @ gram @ factor
    return product @ matrices
