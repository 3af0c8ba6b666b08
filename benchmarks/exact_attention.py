"""Exact attentions of CSNLN in linear memory, against literal readings of their formulas.

cross-scale: the literal module cuts 3x3 patches of the keys and 3s x 3s patches of the values, correlates, and pastes
by transposed convolution. in-scale: the literal module forms the L x L matrix. Both kinds get the same weights;
outputs must agree before anything is timed. Each runs in a fresh process, in turn, so that a noisy machine hurts both
alike.

    python benchmarks/exact_attention.py cross-scale --channels 64
    python benchmarks/exact_attention.py in-scale --channels 128
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from nlsr.attention.affinity import SharedAttention
from nlsr.attention.cross_scale import CrossScale, CrossScaleAttention
from nlsr.attention.dense import nonlocal_attention

Attention = Callable[[Tensor], Tensor]


def literal_cross_scale(block: CrossScaleAttention, features: Tensor) -> Tensor:
    """One image of sides that are multiples of the scale."""
    scale = block.operator.scale
    query = block.operator.query(features)
    small = F.interpolate(features, scale_factor=1 / scale, mode="bilinear", align_corners=False)
    key_patches = patches(block.operator.key(small), 3, 1, 1)
    key_patches = key_patches / key_patches.flatten(1).norm(dim=1).clamp(min=1e-4)[:, None, None, None]
    value_patches = patches(block.values(features), 3 * scale, scale, scale)
    affinity = F.softmax(10 * F.conv2d(query, key_patches, padding=1), dim=1)
    return F.conv_transpose2d(affinity, value_patches, stride=scale, padding=scale) / 6


def patches(map: Tensor, size: int, stride: int, padding: int) -> Tensor:
    columns = F.unfold(map, size, stride=stride, padding=padding)
    return columns[0].T.reshape(-1, map.shape[1], size, size)


def literal_in_scale(block: SharedAttention, features: Tensor) -> Tensor:
    query, key, values = (
        part(features).flatten(2).transpose(1, 2) for part in (block.operator.query, block.operator.key, block.values)
    )
    affinity = F.softmax(query @ key.transpose(1, 2), dim=-1)
    return (affinity @ values).transpose(1, 2).reshape(features.shape)


def build(attention: str, kind: str, channels: int, scale: int) -> Attention:
    """Equal seeds give both kinds equal weights."""
    torch.manual_seed(0)
    if attention == "cross-scale":
        enlarge = CrossScaleAttention(channels, CrossScale(channels, scale)).eval()
        return enlarge if kind == "ours" else lambda features: literal_cross_scale(enlarge, features)
    block = nonlocal_attention(channels, input_scale=0.0).eval()
    return (
        (lambda features: block(features)[0]) if kind == "ours" else lambda features: literal_in_scale(block, features)
    )


@torch.inference_mode()
def run(attend: Attention, channels: int, side: int, repeats: int) -> tuple[Tensor, dict[str, float]]:
    features = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(1))
    attend(features[..., :12, :12].contiguous())  # warm-up
    before, times = peak(), []
    for _ in range(repeats):
        started = time.perf_counter()
        output = attend(features)
        times.append(time.perf_counter() - started)
    return output, {"seconds": min(times), "extra_mib": (peak() - before) / 2**20}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attention", choices=["cross-scale", "in-scale"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["literal", "ours"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only:
        attend = build(options.attention, options.only, options.channels, options.scale)
        print(json.dumps(run(attend, options.channels, options.side, 2)[1]))
        return
    small = 12 * options.scale
    literal, ours = (
        run(build(options.attention, kind, options.channels, options.scale), options.channels, small, 1)[0]
        for kind in ("literal", "ours")
    )
    print(f"largest difference to literal at {small}x{small}: {(ours - literal).abs().max():.1e}")
    torch.testing.assert_close(ours, literal, rtol=1e-4, atol=1e-4)
    results: dict[str, list[dict[str, float]]] = {"literal": [], "ours": []}
    for _ in range(options.repeats):
        for kind, rows in results.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--only", kind]
            rows.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    medians = {
        kind: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for kind, rows in results.items()
    }
    for kind, row in medians.items():
        print(json.dumps({"kind": kind, "seconds": round(row["seconds"], 2), "extra_mib": round(row["extra_mib"])}))
    faster = medians["literal"]["seconds"] / medians["ours"]["seconds"]
    smaller = medians["literal"]["extra_mib"] / medians["ours"]["extra_mib"]
    print(json.dumps({"times_faster": round(faster, 2), "times_smaller": round(smaller, 1)}))


if __name__ == "__main__":
    main()
