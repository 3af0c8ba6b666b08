"""What does the attention of a network bring? The same network with other attentions, unshared, frozen, and without.

All begin with one body: the network of the recipe without attention, trained on for a while from the recipe's `start`.
Every variant then gets its attention, which starts as the identity, and trains on: equal batches, constant rate,
averaged weights. Variants are compared after equal steps, and after the steps that each makes in the time of the first.
Seconds per step and memory are measured before, variants in turn. What is done is kept, and not done again.

    python benchmarks/ablation.py recipes/ablation.toml --data DIR -o build/ablation
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch.nn import functional as F

from nlsr.cli.training_progress import TrainingProgress, quiet
from nlsr.evaluate import PairFolder
from nlsr.evaluate.metrics import psnr
from nlsr.memory import peak_memory, reset_peak
from nlsr.train.data import Pairs, prepare
from nlsr.train.loop import fit
from nlsr.train.module import upscale_with
from nlsr.train.recipe import CHECKPOINT, Recipe, read_recipe
from nlsr.weights import load, save_network
from nlsr.weights.checkpoint import write_atomically

VARIANTS = {
    "kmeans shared": [],
    "none": ["network.operator=none"],
    "kmeans unshared": ["network.share=false"],
    "hash shared": ["network.operator=hash"],
    "kmeans shared, frozen centroids": ["network.centroid_learning=frozen"],
    "dense shared, patches apart": ["network.operator=dense", "training.joined_patches=1"],
}
"""The first is the one whose time the others get. Exact attention of joined patches takes 15 times as long."""
SEEDS = {"kmeans shared": 3, "none": 3}
"""How often a variant is trained; once by default."""
TIMED_STEPS = 4
ROUNDS = 5
BENCHMARKS = ("Set5", "Urban100-20")


class Snapshots(Callback):
    """The averaged weights at some steps."""

    def __init__(self, folder: Path, steps: Sequence[int]) -> None:
        self.folder, self.steps = folder, steps

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        if trainer.global_step in self.steps:
            save_network(snapshot(self.folder, trainer.global_step), module.average, card={"step": trainer.global_step})


def snapshot(folder: Path, step: int) -> Path:
    return folder / f"step-{step}.safetensors"


def slug(variant: str, seed: int) -> str:
    return f"{variant.replace(',', '').replace(' ', '-')}-{seed}"


def costs(recipes: dict[str, Recipe]) -> dict[str, dict[str, float]]:
    """Median processor seconds of a step, variants in turn, and the most memory of a step, each in its own process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as fresh:
        memory = dict(zip(recipes, fresh.map(step_memory, recipes.values()), strict=True))
    steps = {name: stepper(recipe) for name, recipe in recipes.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            for _ in range(TIMED_STEPS):
                started = time.process_time()
                step()
                seconds[name].append(time.process_time() - started)
    return {name: {"seconds": statistics.median(seconds[name]), "mebibytes": memory[name]} for name in steps}


def step_memory(recipe: Recipe) -> float:
    """MiB beside network and optimiser."""
    torch.set_num_threads(1)
    step = stepper(recipe)
    before = reset_peak()
    step()
    return (peak_memory() - before) / 2**20


def stepper(recipe: Recipe) -> Callable[[], None]:
    """Each call makes one step of training on random patches."""
    network = recipe.build_network().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(network.parameters())
    stage, scale, draw = recipe.training.stages[0], recipe.network.scale, torch.Generator().manual_seed(0)
    low = torch.rand(stage.batch_size, 3, stage.patch_size, stage.patch_size, generator=draw)
    high = F.interpolate(low, scale_factor=scale)
    low = low.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.training.precision == "bf16"):
            trace = network.trace(low)
        F.l1_loss(trace.upscaled.float(), high).backward()
        optimizer.step()
        optimizer.zero_grad()
        network.learn(network.observe(trace), generator=torch.Generator().manual_seed(0))

    return step


def train(recipe: Recipe, pairs: Pairs, data: Path, folder: Path, snapshots: Sequence[int] = ()) -> Path:
    """Train, or continue, unless that is done."""
    weights = folder / f"{recipe.name}.safetensors"
    if not weights.exists():
        callbacks = [TrainingProgress(recipe), Snapshots(folder, snapshots)]
        resume = (folder / CHECKPOINT).exists()
        fit(recipe, pairs, data / recipe.data.validation, folder, resume=resume, callbacks=callbacks)
    return weights


def scores(weights: Path, data: Path) -> dict[str, float]:
    """Mean PSNR of luma, in dB."""
    network = load(weights).to(memory_format=torch.channels_last)
    upscale, scale = upscale_with(network), network.scale
    with torch.inference_mode():
        return {
            name: statistics.mean(
                psnr((upscale(pair.low_res) * 255).round() / 255, pair.high_res, border=scale).item()
                for pair in PairFolder(data / "eval" / name, scale=scale)
            )
            for name in BENCHMARKS
        }


def once(path: Path, make: Callable[[], Any]) -> Any:
    """What is in a JSON file, made if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(make(), indent=1).encode())
    return json.loads(path.read_text())


def table(rows: list[dict[str, Any]], steps: int) -> str:
    """Means, and the standard deviation where there are several seeds."""
    lines = [
        f"| attention | seeds | s / step | MiB | {' | '.join(f'{name}, {steps} steps' for name in BENCHMARKS)} | "
        f"steps in equal time | {' | '.join(f'{name}, equal time' for name in BENCHMARKS)} |",
        "|---" * (5 + 2 * len(BENCHMARKS)) + "|",
    ]
    for row in rows:
        equal = [" | ".join(spread(row[kind], name) for name in BENCHMARKS) for kind in ("equal_steps", "equal_time")]
        lines.append(
            f"| {row['variant']} | {len(row['equal_steps'])} | {row['seconds']:.3f} | {row['mebibytes']:.0f} | "
            f"{equal[0]} | {row['steps']} | {equal[1]} |"
        )
    return "\n".join(lines) + "\n"


def spread(results: list[dict[str, float]], name: str) -> str:
    values = [result[name] for result in results]
    several = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{several}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("build/cache"))
    parser.add_argument("-o", "--output", type=Path, default=Path("build/ablation"))
    parser.add_argument("--body-steps", type=int, default=1500)
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet()

    plain = read_recipe(options.recipe)
    pairs = prepare(
        [options.data / name for name in plain.data.train],
        scale=plain.network.scale,
        source_scales=plain.data.source_scales,
        cache=options.cache,
    )
    named = {name: read_recipe(options.recipe, settings) for name, settings in VARIANTS.items()}
    cost = once(options.output / "costs.json", lambda: costs(named))

    settings = [*VARIANTS["none"], "name=body", f"training.steps={options.body_steps}", "training.schedule=cosine"]
    body = train(read_recipe(options.recipe, settings), pairs, options.data, options.output / "body")
    print("body", once(options.output / "body" / "scores.json", partial(scores, body, options.data)), flush=True)

    rows, steps = [], plain.training.steps
    for variant in options.variants:
        in_time = round(steps * cost[next(iter(VARIANTS))]["seconds"] / cost[variant]["seconds"])
        row: dict[str, Any] = {"variant": variant, **cost[variant], "steps": in_time}
        row |= {"equal_steps": [], "equal_time": []}
        for seed in range(SEEDS.get(variant, 1)):
            folder = options.output / slug(variant, seed)
            settings = [*VARIANTS[variant], f"start={body}", f"name={folder.name}", f"seed={seed}"]
            settings += [f"training.steps={max(steps, in_time)}"]
            train(read_recipe(options.recipe, settings), pairs, options.data, folder, (steps, in_time))
            for kind, step in (("equal_steps", steps), ("equal_time", in_time)):
                path = folder / f"scores-{step}.json"
                row[kind].append(once(path, partial(scores, snapshot(folder, step), options.data)))
        rows.append(row)
        (options.output / "table.json").write_text(json.dumps(rows, indent=1))
        (options.output / "table.md").write_text(table(rows, steps))
        print(table(rows, steps), flush=True)


if __name__ == "__main__":
    main()
