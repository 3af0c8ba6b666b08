"""Processor time of this checkout beside another one, in turn: a step of `nlsr train`, and a picture of `nlsr upscale`.

    git worktree add /tmp/before COMMIT
    python benchmarks/beside.py /tmp/before

Both run as commands, on one thread. What a command does once is taken out: a step is what more steps take than fewer,
divided by their number, and a picture is what a large one takes more than a small one. The least of all turns counts,
as other work on the machine only adds to it; medians stand beside it.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-c", "from nlsr.cli import main; main()"]
RECIPE = "recipes/lcoan-light-x4.toml"
STEPS = 5, 45
SIDES = 64, 512


def processor_seconds(checkout: Path, *words: str) -> float:
    """Of a command and the processes that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*COMMAND, *words], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{checkout}: nlsr {' '.join(words)}\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def step(checkout: Path, folder: Path) -> float:
    """Of training `RECIPE` of the checkout on the picture of this repository, in seconds."""
    few, many = (
        processor_seconds(
            checkout,
            *("train", str(checkout / RECIPE), "--data", str(HERE), "--cache", str(folder / "cache"), "--threads", "1"),
            *("-o", tempfile.mkdtemp(dir=folder)),
            *("--set", 'data.train=["examples"]', "--set", "data.validation=examples"),
            *("--set", f"training.steps={steps}", "--set", "training.warmup_steps=0"),
        )
        for steps in STEPS
    )
    return (many - few) / (STEPS[1] - STEPS[0])


def picture(checkout: Path, precision: str, folder: Path) -> float:
    """Of upscaling `SIDES[1]` squared pixels, less those of `SIDES[0]`, in seconds."""
    few, many = (
        processor_seconds(
            checkout,
            *("upscale", str(folder / f"{side}.png"), "-o", str(folder / "out.png"), "--overwrite"),
            *("--scale", "4", "--threads", "1", "--precision", precision),
        )
        for side in SIDES
    )
    return many - few


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side in SIDES:
            noise = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{side}.png")
        cases: dict[str, Callable[[Path], float]] = {
            "a step of training": lambda checkout: step(checkout, folder),
            "a picture in bf16": lambda checkout: picture(checkout, "bf16", folder),
            "a picture in fp32": lambda checkout: picture(checkout, "fp32", folder),
        }
        print("| | this, s | other, s | least / least | median / median |\n|---|---|---|---|---|")
        for case, measure in cases.items():
            ours: list[float] = []
            others: list[float] = []
            for _ in range(options.turns):
                ours.append(measure(HERE))
                others.append(measure(options.other.resolve()))
            medians = statistics.median(ours) / statistics.median(others)
            least = min(ours) / min(others)
            print(f"| {case} | {min(ours):.3f} | {min(others):.3f} | {least:.2f} | {medians:.2f} |", flush=True)


if __name__ == "__main__":
    main()
