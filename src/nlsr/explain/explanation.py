"""Where a network draws from for one pixel: its affinity, if it has one, and the attribution that every network has."""

import copy
from dataclasses import dataclass
from math import isqrt

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from nlsr.errors import ShapeError, UsageError
from nlsr.explain.attribution import REGION, STEPS, WINDOW, Attribution, attribute
from nlsr.explain.origins import Sources, sources
from nlsr.explain.region import Region, around
from nlsr.memory import default_budget, shown
from nlsr.networks import Network
from nlsr.report import Report

SMALLEST_SIDE = 16
"""Smallest side of a picture: more than any network adds to a map, and more than the blur reaches."""
LARGEST_SIDE = 512
"""Up to as many pixels as a square of this side has, a whole picture is matched."""
PROBE_SIDE = 32
"""Side of the part of a picture on which the memory of a backward pass is measured."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a network draws on for one pixel of a picture."""

    at: tuple[int, int]
    """x and y of the pixel in the picture."""
    scale: int
    region: Region
    """The part of the picture that was matched; what lies beyond it could not be drawn on."""
    sources: Sources | None
    """In pixels of the region. None if the network has no affinity."""
    attribution_region: Region
    """The part of the picture for which the result was attributed."""
    attribution: Attribution

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything by name, as `docs/explain.md` says; regions are left, top, width, height."""
        window = self.attribution.window
        arrays = {
            "at": np.array(self.at),
            "attribution": self.attribution.map.numpy(),
            "attribution_region": _edges(self.attribution_region),
            "attribution_window": _edges(window),
            "integrated_gradients": self.attribution.gradients.numpy(),
            "diffusion_index": np.array(self.attribution.diffusion_index),
            "upscaled": self.attribution.upscaled.numpy(),
        }
        if self.sources is not None:
            arrays["region"] = _edges(self.region)
            arrays["heat"] = self.sources.heat.numpy()
            arrays["strongest"] = self.sources.strongest.numpy()
            if self.sources.reach is not None:
                arrays["reach"] = self.sources.reach.numpy()
            if self.sources.groups is not None:
                arrays["groups"] = self.sources.groups.numpy()
        return arrays


def explain(
    network: Network,
    image: Tensor,
    at: tuple[int, int],
    *,
    affinity: int = 0,
    count: int = 20,
    region: int | None = None,
    attribution_region: int | None = None,
    window: int = WINDOW,
    steps: int = STEPS,
    memory: int | None = None,
    report: Report | None = None,
) -> Explanation:
    """Where a network draws from for a pixel; equal calls give equal results.

    Args:
        network: stays as it is; what it would draw at random belongs to its seed.
        image: (1, 3, height, width), RGB in [0, 1], on the network's device.
        at: x and y of the pixel, counted from 0 at the top left.
        affinity: which one, in the order of `network.trace`.
        count: how many of the strongest pixels are listed.
        region: side of the square around the pixel in which positions are matched; by default the whole image if it
            has at most 512x512 pixels and fits the memory, else the largest square that does.
        attribution_region: side of the square around the pixel for which the result is attributed; by default what
            gives 256 upscaled pixels, as published. The diffusion index depends on it.
        window: side of the part of the result that is attributed, in upscaled pixels.
        steps: steps of the attribution, each one forward and one backward pass.
        memory: budget in bytes; by default a quarter of the machine's.
        report: called after each step of the attribution.
    Raises: UsageError for a pixel outside the image, an affinity that is not there, and what does not fit the memory;
        ShapeError for an image below 16x16 or of another shape.
    """
    height, width = _check(image, at)
    network = copy.deepcopy(network).eval().requires_grad_(False)
    network.draws = None
    budget = memory or default_budget(image.device)
    matched = matched_region(network, image, at, region=region, budget=budget)
    side = attribution_region or REGION // network.scale
    attributed = around(*at, max(side, SMALLEST_SIDE), width=width, height=height)
    _check_backward(network, attributed.of(image), budget)
    drawn = sources(network, matched.of(image), matched.inside(*at), index=affinity, count=count)
    attribution = attribute(
        network, attributed.of(image), attributed.inside(*at), steps=steps, window=window, report=report
    )
    return Explanation(at, network.scale, matched, drawn, attributed, attribution)


def matched_region(
    network: Network, image: Tensor, at: tuple[int, int], *, region: int | None = None, budget: int
) -> Region:
    """The part of an image (1, 3, height, width) in which positions are matched for a pixel.

    Args:
        region: its side, as in `explain`.
        budget: bytes of memory.
    Raises: as `explain`.
    """
    height, width = _check(image, at)
    return around(*at, _matched_side(network, height * width, region, budget), width=width, height=height)


def _check(image: Tensor, at: tuple[int, int]) -> tuple[int, int]:
    if image.ndim != 4 or image.shape[:2] != (1, 3):
        raise ShapeError(f"expected an image (1, 3, height, width), got {tuple(image.shape)}")
    height, width = image.shape[2:]
    if min(height, width) < SMALLEST_SIDE:
        raise ShapeError(f"expected a picture of at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels, got {width}x{height}")
    x, y = at
    if not (0 <= x < width and 0 <= y < height):
        raise UsageError(
            f"{x},{y} lies outside the picture of {width}x{height}; x goes from 0 to {width - 1}, y to {height - 1}"
        )
    return height, width


def _matched_side(network: Network, pixels: int, asked: int | None, budget: int) -> int:
    """Side of the square in which positions are matched; it may be larger than the picture."""
    need = network.bytes_per_pixel()
    fitting = isqrt(budget // need)
    if asked is not None:
        least = max(asked, SMALLEST_SIDE)
        if min(least**2, pixels) * need > budget:
            raise _too_large(f"matching {asked}x{asked} pixels", min(least**2, pixels) * need, budget, "`region`")
        return least
    if pixels <= LARGEST_SIDE**2 and pixels * need <= budget:
        return pixels
    if fitting < SMALLEST_SIDE:
        raise _too_large("this network", SMALLEST_SIDE**2 * need, budget, None)
    return min(LARGEST_SIDE, fitting)


def _check_backward(network: Network, image: Tensor, budget: int) -> None:
    """Raises: UsageError if what a backward pass through the network holds exceeds the budget.

    Measured on a small part of the image: networks are linear in the pixels.
    """
    part = image[:, :, :PROBE_SIDE, :PROBE_SIDE]
    needed = (held_for_backward(network, part) / part[0, 0].numel() + network.bytes_per_pixel()) * image[0, 0].numel()
    if needed > budget:
        height, width = image.shape[2:]
        raise _too_large(f"attribution on {width}x{height} pixels", needed, budget, "`attribution_region`")


def held_for_backward(network: nn.Module, image: Float[Tensor, "1 3 h w"]) -> int:
    """Bytes of what a forward pass keeps for backward, beyond the weights."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would hold the graph that holds it

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        upscaled = network(image.detach().clone().requires_grad_())
    del upscaled  # till here the graph holds what is counted, so that no address is given away twice
    return sum(held.values())


def _too_large(what: str, needed: int | float, budget: int, option: str | None) -> UsageError:
    smaller = f"take less with {option}, or " if option else ""
    return UsageError(
        f"{what} needs about {shown(needed)}, the budget is {shown(budget)}; {smaller}allow more with `memory`"
    )


def _edges(region: Region) -> np.ndarray:
    return np.array([region.left, region.top, region.width, region.height])
