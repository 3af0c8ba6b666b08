"""The named protocols under which numbers may be compared; the name is printed beside every number.

A quarter of the complaints about published numbers come from protocols that differ and do not say so.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from nlsr.evaluate.metrics import (
    Edge,
    Planes,
    Score,
    edsr_luma,
    luma_8_bit,
    psnr,
    psnr_of_planes,
    rgb_planes,
    ssim,
    ssim_of_planes,
    without_border,
)
from nlsr.images import luma, resize

PAPERS = "luma"
"""The protocol of the papers' tables, which decides where one number must do."""

LUMA_FIRST = "luma-first"
"""The route of published bicubic rows: not a comparison of two images, as luma alone is made smaller and larger."""


@dataclass(frozen=True)
class Protocol:
    """How an upscaled image is compared with its original."""

    words: str
    planes: Planes
    edge: Edge

    def measure(self, upscaled: Float[Tensor, "1 3 h w"], high_res: Float[Tensor, "1 3 h w"], *, border: int) -> Score:
        """RGB in [0, 1]; the border is the scale.

        Raises: ShapeError if the sizes differ or what the border leaves is too small.
        """
        return Score(
            psnr(upscaled, high_res, border=border, planes=self.planes).item(),
            ssim(upscaled, high_res, border=border, planes=self.planes, edge=self.edge).item(),
        )


_WINDOW = "SSIM with an 11×11 Gaussian window of sigma 1.5, K1 0.01, K2 0.03, L 255, "
_COMMON = "RGB rounded to 8 bits; {}; as many pixels as the scale cut from every side; PSNR with peak 255; " + _WINDOW
_LUMA = "luma Y = 16 + (65.481 R + 128.553 G + 24.966 B)/255"

PROTOCOLS = {
    "luma": Protocol(_COMMON.format(_LUMA + ", not rounded") + "where it fits", luma, "valid"),
    "luma-uint8": Protocol(
        _COMMON.format(_LUMA + ", rounded to an integer, as MATLAB does with 8-bit images") + "where it fits",
        luma_8_bit,
        "valid",
    ),
    "rgb": Protocol(
        _COMMON.format("R, G and B as three planes, their squared errors averaged together")
        + "where it fits, averaged over the planes",
        rgb_planes,
        "valid",
    ),
    "edsr": Protocol(
        _COMMON.format("Y = (65.738 R + 129.057 G + 25.064 B)/256, without offset and not rounded")
        + "at every pixel, the image continued by mirroring: the code of EDSR and its descendants",
        edsr_luma,
        "symmetric",
    ),
    "asid": Protocol(
        _COMMON.format(_LUMA + ", not rounded")
        + "at every pixel, the image continued by its edge: the `ssim` of MATLAB, with which ASID was measured",
        luma,
        "replicate",
    ),
}

WORDS = {name: protocol.words for name, protocol in PROTOCOLS.items()} | {
    LUMA_FIRST: (
        "luma Y taken first and rounded to 8 bits, of grey files the values as they are (0 to 255); this plane alone "
        "made smaller and larger again in floating point, then rounded once; as many pixels as the scale cut from "
        "every side; PSNR with peak 255; " + _WINDOW + "where it fits: how the published rows of bicubic were made"
    )
}
"""Every protocol in words, by its name."""


def measure_luma_first(
    high_res: Float[Tensor, "1 3 h w"],
    *,
    grey: bool,
    scale: int,
    enlarge: Callable[[Float[Tensor, "1 1 y x"]], Float[Tensor, "1 1 h w"]],
) -> Score:
    """The protocol `luma-first`.

    Args:
        high_res: RGB in [0, 1], every value a multiple of 1/255; its sides are multiples of the scale.
        grey: whether it comes from a grey file, whose values are taken for luma.
        enlarge: a plane in units of 8-bit values, float64, by the scale.
    Raises: ShapeError if what the border leaves is too small.
    """
    rgb = high_res.double()
    plane = rgb_planes(rgb)[:, :1].round() if grey else luma_8_bit(rgb)
    upscaled = enlarge(resize(plane, scale=1 / scale)).add(0.5).floor().clamp(0, 255)
    first, second = without_border(upscaled, scale), without_border(plane, scale)
    return Score(psnr_of_planes(first, second).item(), ssim_of_planes(first, second).item())
