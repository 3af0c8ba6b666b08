"""Key sets in a vision transformer: scikit-learn's digits, 64 tokens (one per pixel), full attention and few keys.

Each row of the table trains from the same start, batches and steps. *At inference only* restricts the attention of the
fully trained model; *in training* restricts it always. Random keys are drawn for each image, head and layer in each
call, or for each head and layer once and for all. The class token is a key like the others. Needs scikit-learn.

    python benchmarks/digits.py --threads 1
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.attention.leverage import MultiHeadLeverage, leverage_scores

SIDE, NUM_TOKENS, NUM_TEST = 8, 65, 450
HEADS = 4
Scores = Callable[[Tensor], Tensor]


def by_leverage(seed: int) -> Scores:
    return leverage_scores


def at_random(seed: int) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    return lambda key: torch.rand(key.shape[:2], generator=generator)


def at_random_once(seed: int) -> Scores:
    scores = torch.rand(HEADS, NUM_TOKENS, generator=torch.Generator().manual_seed(seed))
    return lambda key: scores.repeat(len(key) // HEADS, 1)


CHOICES = {"by leverage": by_leverage, "at random": at_random, "at random once and for all": at_random_once}


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = MultiHeadLeverage(width, HEADS)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class VisionTransformer(nn.Module):
    """One token per pixel, made of its 3x3 neighbourhood, and a class token, which alone is read at the end."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 3, padding=1)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.04 * torch.randn(NUM_TOKENS, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).mT
        tokens = torch.cat((self.class_token.expand(len(tokens), -1, -1), tokens), dim=1)
        return self.head(self.norm(self.blocks(tokens + self.position)[:, 0]))

    def restrict(self, num_keys: int, choice: str, seed: int) -> None:
        for layer, block in enumerate(self.blocks):
            block.attn.num_keys, block.attn.scores = num_keys, CHOICES[choice](100 * seed + layer)


def load(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (n, 1, 8, 8) in [-1, 1] and classes, for training and for testing."""
    pixels, classes = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, SIDE, SIDE) / 8 - 1
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    test, train = order.tensor_split([NUM_TEST])
    classes = torch.from_numpy(classes)
    return images[train], classes[train], images[test], classes[test]


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by at most one pixel in each direction."""
    padded = F.pad(images, (1, 1, 1, 1), value=-1.0)
    rows, columns = torch.randint(3, (2, len(images), 1), generator=generator) + torch.arange(SIDE)
    return padded[torch.arange(len(images))[:, None, None], 0, rows[:, :, None], columns[:, None]][:, None]


def train(options: argparse.Namespace, seed: int, num_keys: int | None, choice: str) -> VisionTransformer:
    images, classes, _, _ = load(seed)
    torch.manual_seed(seed)
    model = VisionTransformer(options.width, options.depth)
    if num_keys is not None:
        model.restrict(num_keys, choice, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.05)
    steps = options.epochs * len(images) // options.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, steps, pct_start=0.15)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randint(len(images), (options.batch_size,), generator=generator)
        F.cross_entropy(model(shifted(images[batch], generator)), classes[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model


@torch.inference_mode()
def accuracy(model: VisionTransformer, seed: int) -> float:
    """Share of the test images, in percent."""
    _, _, images, classes = load(seed)
    return 100 * (model(images).argmax(1) == classes).double().mean().item()


def run(options: argparse.Namespace, seed: int, started: float) -> dict[str, float]:
    """Test accuracy of each row of the table."""
    results: dict[str, float] = {}

    def report(name: str, model: VisionTransformer) -> None:
        results[name] = accuracy(model, seed)
        elapsed = time.perf_counter() - started
        print(f"{elapsed:6.0f} s  seed {seed}  {name}: {results[name]:.2f} %", file=sys.stderr, flush=True)

    full = train(options, seed, None, "")
    report("full attention", full)
    for choice in ("by leverage", "at random"):
        for count in options.num_keys:
            full.restrict(count, choice, seed)
            report(f"{count} keys {choice}, at inference only", full)
    for choice in CHOICES:
        for count in options.num_keys:
            report(f"{count} keys {choice}, in training", train(options, seed, count, choice))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num-keys", type=int, nargs="+", default=[16, 8])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--depth", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    runs = [run(options, seed, started) for seed in options.seeds]
    means = {name: statistics.mean(result[name] for result in runs) for name in runs[0]}
    print("| attention | accuracy, mean of seeds | lowest to highest | of full |")
    print("|---|---|---|---|")
    for name, mean in means.items():
        values = [result[name] for result in runs]
        share = 100 * mean / means["full attention"]
        print(f"| {name} | {mean:.2f} % | {min(values):.2f} to {max(values):.2f} % | {share:.1f} % |")
    rounded = {name: round(mean, 2) for name, mean in means.items()}
    seconds = round(time.perf_counter() - started)
    print(json.dumps({"seeds": options.seeds, "seconds": seconds, "accuracy": rounded}))


if __name__ == "__main__":
    main()
