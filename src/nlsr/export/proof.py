"""A file is run beside the network it was made of, on a real picture, before anybody gets it."""

import math
from dataclasses import dataclass
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
LOST_DB = 0.02
"""What half precision may cost on the picture."""


@dataclass(frozen=True)
class Difference:
    """How a file and torch differ on one size."""

    height: int
    width: int
    largest: float
    share: float
    """Of the values that differ by more than `CLOSE`."""


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
        close = each.share <= SHARE and each.largest <= NEVER
        if not math.isfinite(each.largest) or (weights == "fp32" and not close):
            raise ExportError(
                f"the file computes other than torch on a {each.width}x{each.height} picture: values differ by up to "
                f"{each.largest:.2g}, {each.share:.2%} of them by more than {CLOSE:g}; no file was written"
            )
    if weights == "fp16" and not proof.lost_db <= LOST_DB:
        raise ExportError(
            f"half precision loses {proof.lost_db:.3f} dB on the example, expected at most {LOST_DB}; no file was "
            "written"
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
    apart = (upscaled - expected).abs()
    largest = apart.max().item()
    return Difference(height, width, largest, (apart > CLOSE).float().mean().item())


def _lost(network: Network, run: Run, picture: Tensor) -> float:
    """dB between what torch and the file make of a picture that was made smaller."""
    scale = network.scale
    height, width = (side // scale * scale for side in picture.shape[2:])
    high_res = picture[..., :height, :width]
    low_res = resize(high_res, size=(height // scale, width // scale)).clamp(0, 1)
    return _psnr(network(low_res), high_res) - _psnr(run(low_res), high_res)


def _psnr(upscaled: Tensor, high_res: Tensor) -> float:
    return -10 * math.log10((upscaled.clamp(0, 1) - high_res).square().mean().item())
