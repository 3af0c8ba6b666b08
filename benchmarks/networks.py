"""Processor time and peak memory of whole networks, each in a process of its own, in turn.

python benchmarks/networks.py pan lcoan-light lcoan-light:operator=none,num_blocks=7 --size 256
python benchmarks/networks.py catanet catanet-shared --size 320x180 --threads 1 --repeats 1
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from nlsr import networks
from nlsr.networks import Network, preset_config
from nlsr.settings import parse_value

ENOUGH = 10
"""Seconds of processor time after which a network is not run again; at most four runs."""


def build(name: str, scale: int) -> Network:
    """A preset, or preset:field=value,field=value."""
    preset, _, changes = name.partition(":")
    fields = dict(change.split("=") for change in changes.split(",") if change)
    values = {field: parse_value(value) for field, value in fields.items()}
    return networks.build(preset_config(preset, scale, values)).eval()


@torch.inference_mode()
def run(name: str, scale: int, width: int, height: int, precision: str) -> dict[str, float]:
    network = build(name, scale).to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, height, width).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        network(image[..., :32, :32])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        walls: list[float] = []
        processors: list[float] = []
        while len(walls) < 4 and sum(processors) < ENOUGH:
            wall, processor = time.perf_counter(), time.process_time()
            network(image)
            walls.append(time.perf_counter() - wall)
            processors.append(time.process_time() - processor)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parameters = sum(p.numel() for p in network.parameters())
    return {
        "parameters": parameters,
        "seconds": min(walls),
        "processor": min(processors),
        "extra_mib": (after - before) / 1024,
        "bytes_per_pixel": (after - before) * 1024 / (width * height),
        "predicted": network.bytes_per_pixel(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", help="preset, or preset:field=value,field=value")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--size", default="256", help="side of a square, or WxH")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only:
        width, _, height = options.size.partition("x")
        print(json.dumps(run(options.only, options.scale, int(width), int(height or width), options.precision)))
        return
    results: dict[str, list[dict[str, float]]] = {name: [] for name in options.networks}
    for _ in range(options.repeats):
        for name in options.networks:
            command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
            results[name].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    for name, rows in results.items():
        medians = {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}
        print(json.dumps({"network": name, "size": options.size, "precision": options.precision} | medians))


if __name__ == "__main__":
    main()
