"""Processor time of this checkout beside another one, in turn: a step of `nlsr train`, and a picture of `nlsr upscale`.

    git worktree add /tmp/before COMMIT
    python benchmarks/beside.py /tmp/before

Both run as commands, on one thread. A step is the median of those of one run, from the end of one to the end of the
next, without the first ones; a picture is what a large one takes more than a small one. The least of all turns counts,
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
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parents[1]
COMMAND = """
import atexit, os, sys, time

class WhenLightningComes:
    def find_spec(self, name, *_):
        if name == "lightning" and self in sys.meta_path:
            sys.meta_path.remove(self)
            from torch.optim.optimizer import register_optimizer_step_post_hook
            register_optimizer_step_post_hook(lambda *_: ends.append(time.process_time()))

def write():
    with open(os.environ["ENDS_OF_STEPS"], "w") as file:
        file.write(" ".join(map(str, ends)))

ends = []
sys.meta_path.insert(0, WhenLightningComes())
atexit.register(write)
from nlsr.cli import main
main()
"""
"""`nlsr`, which also writes down when each step of a training ended. It imports torch no sooner than the command does,
which sets variables of torch's before."""
RECIPE = """
name = "beside"

[network]
preset = "lcoan-light"
scale = 4

[data]
train = ["examples"]
validation = "examples"

[training]
steps = 45
batch_size = 8
patch_size = 32
learning_rate = 1e-3
betas = [0.9, 0.99]
gradient_clip = 1.0
precision = "bf16"
validate_every = 1000000
"""
"""Without keys that only one of the checkouts may know."""
NETWORKS = {"4 groups of 2 blocks": (4, 2), "2 groups of 6 blocks": (2, 6)}
FIRST = 10
"""Steps that are not counted."""
WEIGHTS = "src/nlsr/weights/files/lcoan-light-x4.safetensors"
"""Those of the other checkout, which both take: the default network changes."""
SIDES = 64, 512


def run(checkout: Path, folder: Path, *words: str) -> float:
    """Processor seconds of a command and the processes that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1", "ENDS_OF_STEPS": str(folder / "ends")}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{checkout}: nlsr {' '.join(words)}\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def step(checkout: Path, groups: int, blocks: int, folder: Path, *settings: str) -> float:
    """Of training `lcoan-light` in these sizes on the picture of this repository, in seconds."""
    own = (word for setting in settings for word in ("--set", setting))
    run(
        checkout,
        folder,
        *("train", str(folder / "recipe.toml"), "--data", str(HERE), "--cache", str(folder / "cache")),
        *("--threads", "1", "-o", tempfile.mkdtemp(dir=folder)),
        *("--set", f"network.num_groups={groups}", "--set", f"network.num_blocks={blocks}", *own),
    )
    ends = [float(end) for end in (folder / "ends").read_text().split()][FIRST:]
    return statistics.median(later - sooner for sooner, later in pairwise(ends))


def picture(checkout: Path, weights: Path, precision: str, folder: Path) -> float:
    """Of upscaling `SIDES[1]` squared pixels, less those of `SIDES[0]`, in seconds."""
    few, many = (
        run(
            checkout,
            folder,
            *("upscale", str(folder / f"{side}.png"), "-o", str(folder / "out.png"), "--overwrite"),
            *("--model", str(weights), "--threads", "1", "--precision", precision),
        )
        for side in SIDES
    )
    return many - few


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", default="", help="only rows whose names hold this")
    parser.add_argument(
        "--set", action="append", default=[], help="of this checkout's trainings: training.compile=true"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side in SIDES:
            noise = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{side}.png")
        (folder / "recipe.toml").write_text(RECIPE)
        weights = options.other.resolve() / WEIGHTS
        own = {HERE: options.set}
        cases: dict[str, Callable[[Path], float]] = {
            f"a step of training, {name}": lambda checkout, sizes=sizes: step(
                checkout, *sizes, folder, *own.get(checkout, [])
            )
            for name, sizes in NETWORKS.items()
        } | {
            "a picture in bf16": lambda checkout: picture(checkout, weights, "bf16", folder),
            "a picture in fp32": lambda checkout: picture(checkout, weights, "fp32", folder),
        }
        print("| | this, s | other, s | least / least | median / median |\n|---|---|---|---|---|")
        for case, measure in cases.items():
            if options.only not in case:
                continue
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
