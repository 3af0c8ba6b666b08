"""Does attention gain or lose when there is more to draw on? PSNR of images alone, and beside each other in one image.

Every image fills a column of the mosaic, mirrored downwards as often as it fits; only its first copy is measured.

    python benchmarks/mosaic.py --data DIR/eval/Set5 --models lcoan-light-x4 runs/mine/mine.safetensors
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from nlsr.evaluate import PairFolder
from nlsr.evaluate.metrics import psnr
from nlsr.upscale import Upscaler


def mosaic(images: list[Tensor], height: int) -> Tensor:
    """Columns beside each other."""
    return torch.cat([column(image, height) for image in images], dim=3)


def column(image: Tensor, height: int) -> Tensor:
    copies = -(-height // image.shape[2])
    return torch.cat([image.flip(2) if copy % 2 else image for copy in range(copies)], dim=2)[:, :, :height]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of high-res images")
    parser.add_argument("--models", nargs="+", default=["lcoan-light-x4"])
    options = parser.parse_args()
    print("| model | alone, dB | in the mosaic, dB | lost |\n|---|---|---|---|")
    for model in options.models:
        upscale = Upscaler(model, tile="none", precision="fp32")
        scale = upscale.scale
        pairs = list(PairFolder(options.data, scale=scale))
        low = [pair.low_res for pair in pairs]
        alone = [psnr(rounded(upscale(one)), pair.high_res, border=scale) for one, pair in zip(low, pairs, strict=True)]
        whole = rounded(upscale(mosaic(low, 2 * max(one.shape[2] for one in low))))
        together, left = [], 0
        for pair in pairs:
            height, width = pair.high_res.shape[2:]
            together.append(psnr(whole[:, :, :height, left : left + width], pair.high_res, border=scale))
            left += width
        first, second = (torch.stack(values).mean().item() for values in (alone, together))
        print(f"| {model} | {first:.3f} | {second:.3f} | {first - second:.3f} |", flush=True)


def rounded(image: Tensor) -> Tensor:
    return (image.clamp(0, 1) * 255).round() / 255


if __name__ == "__main__":
    main()
