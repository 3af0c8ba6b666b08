"""Steps per second of `nlsr train` against a bare loop over one batch that lies in memory, in turn, in one run.

The bare loop does the arithmetic of a step and nothing else: no loading, no Lightning, no averaging, no progress.

    python benchmarks/training.py recipes/lcoan-light-x4.toml --data DIR
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch.nn import functional as F

from nlsr.cli.training_progress import quiet
from nlsr.train.data import Batches, Pairs, prepare
from nlsr.train.loop import fit
from nlsr.train.recipe import Recipe, read_recipe

WARM_UP = 5


class Clock(Callback):
    """When each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append(time.perf_counter())


def bare(recipe: Recipe, batches: Batches, steps: int) -> float:
    """Seconds per step."""
    network = recipe.build_network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    low, high = batches[0]
    low = low.contiguous(memory_format=torch.channels_last)
    times = []
    for step in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.training.precision == "bf16"):
            trace = network.trace(low)
            loss = F.l1_loss(trace.upscaled.float(), high)
        loss.backward()
        if recipe.training.gradient_clip:
            torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.training.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        network.learn(network.observe(trace), generator=torch.Generator().manual_seed(step))
        times.append(time.perf_counter())
    return (times[-1] - times[WARM_UP]) / (len(times) - 1 - WARM_UP)


def ours(recipe: Recipe, pairs: Pairs, validation: Path) -> float:
    """Seconds per step, validation and checkpoint excluded: they come at the end."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        fit(recipe, pairs, validation, Path(folder), resume=False, callbacks=[clock])
    times = clock.times[:-1]  # the last step validates before it ends
    return (times[-1] - times[WARM_UP]) / (len(times) - 1 - WARM_UP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("build/cache"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet()
    settings = [f"training.steps={options.steps}", "training.validate_every=1000000", "training.warmup_steps=0"]
    recipe = read_recipe(options.recipe, settings)
    pairs = prepare(
        [options.data / name for name in recipe.data.train],
        scale=recipe.network.scale,
        source_scales=recipe.data.source_scales,
        cache=options.cache,
    )
    stage = recipe.training.stages[0]
    batches = Batches(pairs, patch_size=stage.patch_size, batch_size=stage.batch_size, seed=recipe.seed)
    validation = options.data / recipe.data.validation
    rows = [(bare(recipe, batches, options.steps), ours(recipe, pairs, validation)) for _ in range(options.repeats)]
    bare_median, our_median = (statistics.median(column) for column in zip(*rows, strict=True))
    print(
        json.dumps(
            {
                "bare_steps_per_second": round(1 / bare_median, 2),
                "our_steps_per_second": round(1 / our_median, 2),
                "ratio": round(bare_median / our_median, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
