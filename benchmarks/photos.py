"""PSNR of luma on low-res images that are noisy and compressed as photos are: bicubic against models.

python benchmarks/photos.py --data DIR/eval/Set5
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from nlsr import Upscaler
from nlsr.evaluate import PairFolder
from nlsr.evaluate.metrics import psnr
from nlsr.images import resize
from nlsr.train.data.degradation.operations import add_noise, compress, to_8_bits

SCALE = 4
SPOILT = [(0.0, 95), (0.0, 75), (4.0, 75), (4.0, 50)]
"""Standard deviation of the noise in grey levels, and JPEG quality."""


def spoil(image: Tensor, noise: float, quality: int) -> Tensor:
    """As a camera and a web page leave it."""
    noisy = add_noise(255 * image[0], noise, np.random.default_rng(0), grey=False)
    return compress(to_8_bits(noisy), quality, full_colour=False)[None].float() / 255


def score(upscale: Callable[[Tensor], Tensor], pairs: PairFolder, noise: float, quality: int) -> float:
    return statistics.mean(
        psnr(
            (upscale(spoil(pair.low_res, noise, quality)).clamp(0, 1) * 255).round() / 255,
            pair.high_res,
            border=SCALE,
        ).item()
        for pair in pairs
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of high-res images")
    parser.add_argument("--models", nargs="+", default=["lcoan-light-x4", "lcoan-light-photo-x4"])
    options = parser.parse_args()
    upscalers: dict[str, Callable[[Tensor], Tensor]] = {"bicubic": lambda image: resize(image, scale=SCALE)}
    upscalers |= {model: Upscaler(model, scale=SCALE) for model in options.models}
    pairs = PairFolder(options.data, scale=SCALE)
    print("| noise, JPEG quality | " + " | ".join(upscalers) + " |\n" + "|---" * (1 + len(upscalers)) + "|")
    for noise, quality in SPOILT:
        scores = [f"{score(upscale, pairs, noise, quality):.2f}" for upscale in upscalers.values()]
        print(f"| {noise:g}, {quality} | " + " | ".join(scores) + " |", flush=True)


if __name__ == "__main__":
    main()
