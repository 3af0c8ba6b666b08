"""Do the clusters learn? The same short training with learned and with frozen (published) centroids.

Prints, at equal steps, the mean cosine of positions to their centroid and the entropy of cluster sizes as a share of
log K, on patches that neither training saw.

    python benchmarks/clusters.py recipes/lcoan-light-x4.toml --data DIR --steps 300
"""

import argparse
import json
from pathlib import Path

import torch
from torch.nn import functional as F

from nlsr.train.data import Batches, prepare
from nlsr.train.recipe import Recipe, read_recipe


def train(recipe: Recipe, batches: Batches, steps: int) -> torch.nn.Module:
    network = recipe.build_network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.training.learning_rate, betas=recipe.training.betas)
    for step in range(steps):
        low, high = batches[step]
        with torch.autocast("cpu", torch.bfloat16):
            trace = network.trace(low.contiguous(memory_format=torch.channels_last))
        F.l1_loss(trace.upscaled.float(), high).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        network.learn(network.observe(trace), generator=torch.Generator().manual_seed(step))
    return network


def fit_of_clusters(network: torch.nn.Module, batches: Batches) -> tuple[float, float]:
    with torch.inference_mode():
        ((embedding, codes),) = network.observe(network.trace(batches[10**6][0]))
    return network.operators()[0].kmeans.goodness(embedding, codes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("build/cache"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for learning in ("moving-average", "frozen"):
        recipe = read_recipe(options.recipe, [f"network.centroid_learning={learning}"])
        pairs = prepare(
            [options.data / name for name in recipe.data.train],
            scale=recipe.network.scale,
            source_scales=recipe.data.source_scales,
            cache=options.cache,
        )
        stage = recipe.training.stages[0]
        batches = Batches(pairs, patch_size=stage.patch_size, batch_size=stage.batch_size, seed=recipe.seed)
        cosine, entropy = fit_of_clusters(train(recipe, batches, options.steps), batches)
        row = {"centroids": learning, "steps": options.steps, "cosine": round(cosine, 4), "entropy": round(entropy, 3)}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
