"""Ten collaborative attentions (one matches, nine reuse) against a literal reading of the published module.

The literal module computes what the paper's code computes, as it computes it: the embedding is evaluated in every
module though only the first uses it, every module sorts twice, and neighbourhoods are copied. Both get the same
weights; outputs must agree before anything is timed. Each runs in a fresh process, in turn, so that a noisy machine
hurts both alike.

    python benchmarks/collaborative_attention.py --threads 2
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.attention import LearnableSparsePattern, SharedAttention

WINDOW, CLUSTERS, SCALE = 384, 128, 0.1


class LiteralAttention(nn.Module):
    """LCoA step by step as published, rounds = 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.match = nn.Conv2d(channels, channels, 3, padding=1)
        self.assembly = nn.Conv2d(channels, channels, 1)
        self.register_buffer("means", F.normalize(torch.randn(CLUSTERS, channels), dim=-1))

    def forward(self, input: tuple[Tensor, Tensor | None, Tensor | None]) -> tuple[Tensor, Tensor, Tensor]:
        features, affinity, codes = input
        batch, _, height, width = features.shape
        length = height * width
        query = self.match(features).view(batch, -1, length).transpose(1, 2)
        values = self.assembly(features).view(batch, -1, length).transpose(1, 2)
        if codes is None:
            codes = (F.normalize(query, dim=-1, eps=1e-12) @ self.means.T).argmax(-1)
        order = codes.sort(dim=-1, stable=True).indices
        undo = order.sort(dim=-1).indices
        padding = -length % WINDOW
        values = self.windows(values, order, padding)
        if affinity is None:
            queries = self.windows(query, order, padding)
            keys = self.neighbours(queries / queries.norm(dim=-1, keepdim=True).clamp(min=5e-5))
            scores = torch.einsum("bnid,bnjd->bnij", queries, keys)
            affinity = torch.exp(scores - torch.logsumexp(scores, dim=-1, keepdim=True))
        drawn = torch.einsum("bnij,bnjc->bnic", affinity, self.neighbours(values)).flatten(1, 2)[:, :length]
        drawn = drawn.gather(1, undo[..., None].expand_as(drawn))
        return features + SCALE * drawn.transpose(1, 2).reshape(features.shape), affinity, codes

    @staticmethod
    def windows(tokens: Tensor, order: Tensor, padding: int) -> Tensor:
        picked = tokens.gather(1, order[..., None].expand_as(tokens))
        if padding:
            picked = torch.cat((picked, picked[:, -padding:]), dim=1)
        return picked.unflatten(1, (-1, WINDOW))

    @staticmethod
    def neighbours(windows: Tensor) -> Tensor:
        before = torch.cat((windows[:, -1:], windows[:, :-1]), dim=1)
        after = torch.cat((windows[:, 1:], windows[:, :1]), dim=1)
        return torch.cat((windows, before, after), dim=2)


def literal_stack(modules: list[LiteralAttention], features: Tensor) -> Tensor:
    affinity = codes = None
    for module in modules:
        features, affinity, codes = module((features, affinity, codes))
    return features


def our_stack(modules: list[SharedAttention], features: Tensor, keep: str) -> Tensor:
    affinity = None
    for module in modules:
        features, affinity = module(features, affinity, keep=keep)
    return features


def build(kind: str, channels: int, count: int) -> list[nn.Module]:
    """Equal seeds give both kinds equal weights."""
    torch.manual_seed(0)
    literal = [LiteralAttention(channels) for _ in range(count)]
    if kind == "literal":
        return literal
    modules: list[nn.Module] = []
    for i, source in enumerate(literal):
        operator = LearnableSparsePattern(channels, num_clusters=CLUSTERS, chunk_size=WINDOW) if i == 0 else None
        module = SharedAttention(channels, operator, residual_scale=SCALE)
        module.values.load_state_dict(source.assembly.state_dict())
        if operator is not None:
            operator.embed.load_state_dict(source.match.state_dict())
            operator.kmeans.centroids[0].copy_(source.means)
        modules.append(module.to(memory_format=torch.channels_last))
    return modules


def run(kind: str, channels: int, side: int, count: int) -> tuple[Tensor, dict[str, float]]:
    modules = build(kind, channels, count)
    features = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(1))
    if kind != "literal":
        features = features.contiguous(memory_format=torch.channels_last)
    stack = literal_stack if kind == "literal" else lambda m, f: our_stack(m, f, kind)
    with torch.inference_mode():
        small = torch.randn(1, channels, 32, 32)
        stack(modules, small)  # warm-up
        before = peak()
        started = time.perf_counter()
        output = stack(modules, features)
        seconds = time.perf_counter() - started
        extra = peak() - before
        times = [seconds]
        for _ in range(2):
            started = time.perf_counter()
            stack(modules, features)
            times.append(time.perf_counter() - started)
    return output, {"seconds": min(times), "extra_mib": extra / 2**20}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["literal", "stored", "recomputed"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only:
        print(json.dumps(run(options.only, options.channels, options.side, options.count)[1]))
        return
    kinds = ["literal", "stored", "recomputed"]
    outputs = [run(kind, options.channels, 64, options.count)[0] for kind in kinds]
    for kind, output in zip(kinds[1:], outputs[1:], strict=True):
        print(f"{kind}: largest difference to literal {(output - outputs[0]).abs().max():.1e}")
        torch.testing.assert_close(output, outputs[0], rtol=1e-4, atol=1e-4)
    results: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _ in range(options.repeats):
        for kind in kinds:
            command = [sys.executable, __file__, *sys.argv[1:], "--only", kind]
            results[kind].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    for kind, rows in results.items():
        seconds = statistics.median(row["seconds"] for row in rows)
        extra = statistics.median(row["extra_mib"] for row in rows)
        print(json.dumps({"kind": kind, "seconds": round(seconds, 3), "extra_mib": round(extra), "runs": len(rows)}))


if __name__ == "__main__":
    main()
