"""A file is run beside the network it was made of, on a real picture, before anybody gets it."""

import math
from dataclasses import dataclass, replace
from importlib.resources import files

import torch
from jaxtyping import Float
from torch import Tensor

from nlsr.errors import ExportError
from nlsr.export.formats import Run, Weights, reason_of
from nlsr.images import read, resize
from nlsr.networks import Network

SIZES = ((1, 1), (5, 7), (33, 65), (64, 96), (160, 192))
"""Height and width: one pixel, fewer pixels than a chunk, odd, even, large."""
CLOSE, SHARE, NEVER = 1e-3, 1e-3, 0.05
"""In single precision at most SHARE of all values differ by more than CLOSE, and none by more than NEVER: rounding
moves a position from one group to another here and there."""
MOVED, DRAWS, TIMES = 1e-6, 4, 5
"""A file that differs more may differ TIMES as much as the network from itself when its pixels are MOVED at random,
in that of several DRAWS which is worst: where positions are sorted, one that changes its group moves the rest."""
LOST_DB = 0.02
"""What a file may cost on the picture."""


@dataclass(frozen=True)
class Difference:
    """How a file and torch differ on one size."""

    height: int
    width: int
    largest: float
    share: float
    """Of the values that differ by more than `CLOSE`."""
    own: tuple[float, float] = (0, 0)
    """Largest and share of the network beside itself when pixels are moved, where a file differs much."""

    @property
    def is_much(self) -> bool:
        """More than rounding explains."""
        largest, share = (TIMES * each for each in self.own)
        return not (self.largest <= max(NEVER, largest) and self.share <= max(SHARE, share))


@dataclass(frozen=True)
class Proof:
    """How a file and torch differ: on all sizes, and in dB on a picture that is made smaller and enlarged again."""

    differences: tuple[Difference, ...]
    lost_db: float

    @property
    def largest(self) -> float:
        return max(each.largest for each in self.differences)

    @property
    def share(self) -> float:
        return max(each.share for each in self.differences)


def example() -> Float[Tensor, "1 3 160 192"]:
    """A part of a photo, RGB in [0, 1]. By Stefan van der Walt, CC0, from the sample images of scikit-image."""
    return read(str(files("nlsr.export") / "example.png")).pixels


def prove(network: Network, run: Run, *, weights: Weights = "fp32") -> Proof:
    """Run a file beside its network. Raises: ExportError that says on which size they differ, and how much."""
    proof = compare(network, run)
    check(proof, weights=weights)
    return proof


@torch.no_grad()
def compare(network: Network, run: Run) -> Proof:
    """How far a file is from its network. Raises: ExportError where it fails, or makes an image of another size."""
    picture = example()
    with torch.autocast("cpu", enabled=False):
        differences = tuple(_difference(network, run, picture[..., :height, :width]) for height, width in SIZES)
        return Proof(differences, _lost(network, run, picture))


def check(proof: Proof, *, weights: Weights = "fp32") -> None:
    """Raises: ExportError if a file is too far from its network."""
    for each in proof.differences:
        if not math.isfinite(each.largest) or (weights == "fp32" and each.is_much):
            raise ExportError(
                f"the file computes other than torch on a {each.width}x{each.height} picture: values differ by up to "
                f"{each.largest:.2g}, {each.share:.2%} of them by more than {CLOSE:g}; no file was written"
            )
    if not proof.lost_db <= LOST_DB:
        raise ExportError(
            f"the file loses {proof.lost_db:.3f} dB on the example, expected at most {LOST_DB}; no file was written"
        )


def _difference(network: Network, run: Run, low_res: Tensor) -> Difference:
    height, width = low_res.shape[2:]
    low_res = low_res.contiguous()
    expected = network(low_res)
    try:
        upscaled = run(low_res)
    except Exception as error:  # an engine may fail in any way
        raise ExportError(
            f"the file fails on a {width}x{height} picture: {reason_of(error)}; no file was written"
        ) from error
    if upscaled.shape != expected.shape:
        raise ExportError(f"the file makes {tuple(upscaled.shape)} of a {width}x{height} picture; no file was written")
    difference = Difference(height, width, *_apart(upscaled, expected))
    return replace(difference, own=_own(network, low_res, expected)) if difference.is_much else difference


def _own(network: Network, low_res: Tensor, expected: Tensor) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(0)
    moved = (low_res + MOVED * torch.randn(low_res.shape, generator=generator) for _ in range(DRAWS))
    largest, share = zip(*(_apart(network(each), expected) for each in moved), strict=True)
    return max(largest), max(share)


def _apart(upscaled: Tensor, expected: Tensor) -> tuple[float, float]:
    """The largest difference, and the share of those above `CLOSE`."""
    apart = (upscaled - expected).abs()
    return apart.max().item(), (apart > CLOSE).float().mean().item()


def _lost(network: Network, run: Run, picture: Tensor) -> float:
    """dB between what torch and the file make of a picture that was made smaller."""
    scale = network.scale
    height, width = (side // scale * scale for side in picture.shape[2:])
    high_res = picture[..., :height, :width]
    low_res = resize(high_res, size=(height // scale, width // scale)).clamp(0, 1)
    return _psnr(network(low_res), high_res) - _psnr(run(low_res), high_res)


def _psnr(upscaled: Tensor, high_res: Tensor) -> float:
    return -10 * math.log10((upscaled.clamp(0, 1) - high_res).square().mean().item())
