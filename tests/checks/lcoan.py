"""LCoAN: attention, clusters, network."""

import itertools
from pathlib import Path

import torch

import nlsr
from nlsr.attention import KMeans, LearnableSparsePattern, SharedAttention
from nlsr.attention.learnable_collaborative import assign, directions, lloyd, member_sums
from tests.checks.case import Case, published_file, with_round_offsets


def check_collaborative_attention(case: Case, _: Path) -> None:
    config = case.config
    for keep in ("stored", "recomputed"):
        features, affinity = case["input"], None
        for i in range(config["n_modules"]):
            operator = None
            if i == 0:
                operator = LearnableSparsePattern(
                    config["channels"],
                    reduction=config["reduction"],
                    num_clusters=config["n_clusters"],
                    chunk_size=config["window_size"],
                    rounds=config["n_rounds"],
                )
                operator.embed.load_state_dict(case.weights("0.conv_match.0."))
                operator.kmeans.centroids.copy_(case["weights.0.kmeans.means"])
            block = SharedAttention(config["channels"], operator, residual_scale=config["res_scale"])
            block.values.load_state_dict(case.weights(f"{i}.conv_assembly.0."))
            features, affinity = block(features, affinity, keep=keep)
            case.check(features, f"aux.out.{i}")
        case.check(features, "output")
        case.check(with_round_offsets(affinity.codes, config["n_clusters"]), "aux.kmeans_codes")
        published = published_rows(case, affinity.num_keys)
        assert (affinity.dense() - published).abs().max() <= case.atol


def published_rows(case: Case, length: int) -> torch.Tensor:
    """The published map, which lies in sorted order, as one matrix over positions; independent of our sorting."""
    map, score, codes = case["aux.att_map"], case["aux.bucket_score"], case["aux.kmeans_codes"]
    batch, rounds, count, size, _ = map.shape
    dense, logs = torch.zeros(batch, rounds, length, length), torch.zeros(batch, rounds, length)
    for b, r in itertools.product(range(batch), range(rounds)):
        mine = codes[b, r * length : (r + 1) * length].tolist()
        order = sorted(range(length), key=mine.__getitem__)
        padded = order + order[length - (count * size - length) :]
        for slot, position in enumerate(order):
            chunk = slot // size
            for part, j in enumerate((chunk, chunk - 1, chunk + 1)):
                keys = torch.tensor(padded[j % count * size : (j % count + 1) * size])
                dense[b, r, position].index_add_(
                    0, keys, map[b, r, chunk, slot % size, part * size : (part + 1) * size]
                )
            logs[b, r, position] = score[b, r, slot]
    return (dense * logs.softmax(1)[..., None]).sum(1)


def check_kmeans(case: Case, _: Path) -> None:
    config, embedding = case.config, case["input"]
    kmeans = KMeans(config["n_clusters"], config["qk_dim"], rounds=config["n_rounds"])
    if "aux.init_indices" in case:
        samples = embedding.flatten(0, 1)
        means = lloyd(samples, samples[case["aux.init_indices"]], config["init_iters"])
        kmeans.centroids.copy_(means.expand_as(kmeans.centroids))
        case.check(kmeans.centroids, "output")
        case.check(kmeans.centroids, "aux.means_after_init")
    else:
        kmeans.centroids.copy_(case["weights.means"])
        samples = directions(embedding).flatten(0, 1)
        means, counts = [], []
        for centroids in kmeans.centroids:
            sums, count = member_sums(samples, assign(samples, centroids), len(centroids))
            means.append(torch.where(count[:, None] > 0, directions(sums), centroids))
            counts.append(count)
        case.check(torch.stack(means), "output")
        case.check(torch.stack(counts), "aux.counts")
    case.check(with_round_offsets(kmeans(embedding), config["n_clusters"]), "aux.kmeans_codes")


def check_lcoan(case: Case, folder: Path) -> None:
    network = nlsr.load(
        published_file(case, folder), chunk_size=case.config["window_size"], residual_scale=case.config["res_scale"]
    )
    assert network.scale == case.config["scale"][0]
    seen = []
    network.groups[0].register_forward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
    for keep in ("stored", "recomputed"):
        trace = network.trace(case["input"], keep=keep)
        case.check(trace.upscaled, "output")
        (affinity,) = trace.affinities
        case.check(with_round_offsets(affinity.codes, case.config["n_clusters"]), "aux.kmeans_codes")
        case.check(seen.pop(), "aux.group0_out")


CHECKS = {
    ("lcoan", "RecurrentNonLocalKmeansAttention"): check_collaborative_attention,
    ("lcoan", "Kmeans"): check_kmeans,
    ("lcoan", "network"): check_lcoan,
}
