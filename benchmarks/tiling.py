"""What tiles cost: tiled against whole in dB, and the PSNR lost against the true image; difference pictures on request.

python benchmarks/tiling.py --data DIR/eval/Urban100-20 --tiles 64 128 --images 5 --pictures DIR
"""

import argparse
from pathlib import Path

import torch

from nlsr.evaluate.metrics import psnr
from nlsr.images import Picture, read, resize, write
from nlsr.upscale import Upscaler, compare_tiling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of high-res images")
    parser.add_argument("--model", default="lcoan-light-x4")
    parser.add_argument("--tiles", nargs="+", type=int, default=[64, 128])
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--pictures", type=Path, help="folder for the amplified differences")
    parser.add_argument("--precision", default="fp32")
    options = parser.parse_args()
    whole = Upscaler(options.model, tile="none", precision=options.precision)
    scale = whole.scale
    print("| image | tile | tiled against whole, dB | largest difference of 255 | PSNR whole | PSNR lost |")
    print("|---|---|---|---|---|---|")
    lost: dict[int, list[float]] = {tile: [] for tile in options.tiles}
    for path in sorted(options.data.glob("*.png"))[: options.images]:
        high_res = read(path).pixels
        height, width = (side // scale * scale for side in high_res.shape[2:])
        high_res = high_res[:, :, :height, :width]
        low_res = resize((high_res * 255).round().to(torch.uint8), scale=1 / scale).float() / 255
        expected = whole(low_res)
        reached = psnr(expected, high_res, border=scale).item()
        for tile in options.tiles:
            tiled = Upscaler(options.model, tile=tile, precision=options.precision)(low_res)
            difference = compare_tiling(tiled, expected)
            lost[tile].append(reached - psnr(tiled, high_res, border=scale).item())
            print(
                f"| {path.stem} | {tile} | {difference.psnr:.2f} | {255 * difference.largest:.1f} "
                f"| {reached:.3f} | {lost[tile][-1]:.4f} |",
                flush=True,
            )
            if options.pictures:
                write(options.pictures / f"{path.stem}-{tile}.png", Picture(difference.picture), overwrite=True)
    for tile, losses in lost.items():
        print(f"| mean | {tile} | | | | {sum(losses) / len(losses):.4f} |")


if __name__ == "__main__":
    main()
