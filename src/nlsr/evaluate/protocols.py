"""The named protocols under which numbers may be compared; the name is printed beside every number.

A quarter of the complaints about published numbers come from protocols that differ and do not say so.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from nlsr.evaluate.metrics import psnr, ssim


@dataclass(frozen=True)
class Protocol:
    """How two images are compared; both metrics are called as metric(upscaled, high_res, border=scale)."""

    words: str
    psnr: Callable[..., Tensor]
    ssim: Callable[..., Tensor]


PROTOCOLS = {
    "luma": Protocol(
        words=(
            "RGB rounded to 8 bits; luma Y = 16 + (65.481 R + 128.553 G + 24.966 B)/255, not rounded; "
            "as many pixels as the scale cut from every side; PSNR with peak 255; "
            "SSIM with an 11×11 Gaussian window of sigma 1.5 where it fits, K1 0.01, K2 0.03, L 255; "
            "the mean is the mean over images"
        ),
        psnr=psnr,
        ssim=ssim,
    ),
}
