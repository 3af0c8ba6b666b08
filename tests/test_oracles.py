"""Published code's own numbers: each file in a folder is one case, reproduced within its own tolerance.

A file holds inputs, weights and outputs of the published code, and says in its metadata how they were made. The folder
is `tests/oracles`, or the one named by NLSR_ORACLES. A file that no check here understands is a failure.
"""

import itertools
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import nlsr
from nlsr.attention import (
    EfficientContrastive,
    GlobalLearnable,
    KernelAffinity,
    KMeans,
    LearnableSparsePattern,
    NonLocalAttention,
    NonLocalSparse,
    PixelAttentionConv,
    SharedAttention,
    contrastive_loss,
    global_learnable_attention,
)
from nlsr.attention.efficient_contrastive import random_features
from nlsr.attention.learnable_collaborative import assign, directions, lloyd, member_sums
from nlsr.images import resize
from nlsr.networks.pan import SelfCalibratedBlock

FOLDER = Path(os.environ.get("NLSR_ORACLES", Path(__file__).parent / "oracles"))
FILES = sorted(FOLDER.glob("*.safetensors"))


class Case:
    """One file: its tensors by name, its config, and comparison within its tolerance."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.system, self.level = metadata["system"], metadata["level"]
        self.config = json.loads(metadata["config"])
        self.atol = float(metadata["atol"])

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def weights(self, prefix: str = "") -> dict[str, torch.Tensor]:
        start = f"weights.{prefix}"
        return {name[len(start) :]: tensor for name, tensor in self.tensors.items() if name.startswith(start)}

    def check(self, actual: torch.Tensor, name: str) -> None:
        expected = self[name]
        assert actual.shape == expected.shape, name
        if expected.is_floating_point():
            error = (actual.double() - expected.double()).abs().max().item()
            assert error <= self.atol, f"{name}: off by {error:.3g}, tolerance {self.atol:g}"
        else:
            assert torch.equal(actual, expected), name


def test_there_are_cases():
    assert FILES, f"no oracle files in {FOLDER}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_published_numbers_are_reproduced(path, tmp_path):
    case = Case(path)
    kind = case.config.get("cls", case.config.get("class", case.level)).removeprefix("nn.Sequential of ")
    check = CHECKS.get((case.system, kind))
    assert check is not None, f"{path.name}: no check for {case.system} ({kind})"
    with torch.no_grad():
        check(case, tmp_path)


def check_resize(case: Case, _: Path) -> None:
    """In some files the memory of an output lies in (width, height) order whatever its shape says; either is taken."""
    sizes = {"output": case.config["scale"].split(";")[0].strip(), "output_half": "1/2", "output_quarter": "1/4"}
    sizes |= {"output_x2": "2", "output_x3": "3", "output_out_size": None}
    sizes |= {f"output_uint8{end}": sizes[f"output{end}"] for end in ("", "_half", "_quarter")}
    sizes |= {"output_uint8_up4": "4"}
    outputs = [name for name in case.tensors if name.startswith("output")]
    assert outputs
    for name in outputs:
        source = case["input_uint8"] if name == "output_uint8_up4" else case["input"]
        source = source if "uint8" in name else source.double()
        image = source.permute(2, 0, 1) if source.ndim == 3 else source
        size = tuple(case["out_size"].tolist()) if name == "output_out_size" else None
        result = resize(image, size=size) if size else resize(image, scale=fraction(sizes[name]))
        result = result.permute(1, 2, 0) if result.ndim == 3 else result
        turned = result.transpose(0, 1).reshape(result.shape)
        as_said = torch.allclose(result.double(), case[name].double(), rtol=0, atol=case.atol)
        case.check(result if as_said else turned, name)


def fraction(text: str) -> float:
    over, _, under = text.partition("/")
    return float(over) / float(under or 1)


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
                    window_size=config["window_size"],
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


def with_round_offsets(codes: torch.Tensor, num_clusters: int) -> torch.Tensor:
    rounds = torch.arange(codes.shape[1]).view(1, -1, 1)
    return (codes + rounds * num_clusters).flatten(1)


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
    path = folder / "published.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in case.weights().items()}, path)
    network = nlsr.load(path, window_size=case.config["window_size"], residual_scale=case.config["res_scale"])
    assert network.scale == case.config["scale"][0]
    seen = []
    network.groups[0].register_forward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
    for keep in ("stored", "recomputed"):
        trace = network.trace(case["input"], keep=keep)
        case.check(trace.upscaled, "output")
        (affinity,) = trace.affinities
        case.check(with_round_offsets(affinity.codes, case.config["n_clusters"]), "aux.kmeans_codes")
        case.check(seen.pop(), "aux.group0_out")


def check_nonlocal(case: Case, _: Path) -> None:
    config, weights = case.config, case.weights()
    block = NonLocalAttention(config["channel"], reduction=config["reduction"], residual_scale=config["res_scale"])
    names = {"conv_match1": block.operator.query, "conv_match2": block.operator.key, "conv_assembly": block.values}
    for name, part in names.items():
        part.load_state_dict({key.removeprefix(f"{name}."): w for key, w in weights.items() if key.startswith(name)})
    case.check(block(case["input"]), "output")


def check_sparse_attention(case: Case, _: Path) -> None:
    config = case.config
    sizes = {"reduction": config["reduction"], "chunk_size": config["chunk_size"], "rounds": config["n_hashes"]}
    for keep in ("stored", "recomputed"):
        if config["cls"] == "GLA":
            operator = GlobalLearnable(config["channels"], **sizes)
            block = global_learnable_attention(config["channels"], operator, residual_scale=config["res_scale"])
            names = {"conv_match.0": "operator.embed.0", "conv_assembly.0": "values.0"}
            names |= {"conv_assembly_fc.0": "operator.embed_score.0"}
            names |= {f"fc.{i}": f"operator.score.{i}" for i in (0, 2)}
        else:
            operator = NonLocalSparse(config["channels"], **sizes)
            block = SharedAttention(config["channels"], operator, residual_scale=config["res_scale"])
            names = {"conv_match.0": "operator.embed", "conv_assembly.0": "values"}
        parts = [(name.rsplit(".", 1), tensor) for name, tensor in case.weights().items()]
        block.load_state_dict({f"{names[part]}.{end}": tensor for (part, end), tensor in parts})
        output, affinity = block(case["input"], draws=case["aux.rotation"], keep=keep)
        case.check(output, "output")
        buckets = case["aux.rotation"].shape[-1] * (1 if config["cls"] == "GLA" else 2)
        case.check(with_round_offsets(affinity.codes, buckets), "aux.hash_codes")


def check_hashing_network(case: Case, folder: Path) -> None:
    path = folder / "published.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in case.weights().items()}, path)
    config = case.config
    unsaid = {"chunk_size": config["chunk_size"]} if case.system == "nlsn" else {}
    network = nlsr.load(path, residual_scale=config["res_scale"], rounds=config["n_hashes"], **unsaid)
    assert network.config.chunk_size == config["chunk_size"]
    modules = [name.removeprefix("aux.rotation.") for name in case.tensors if name.startswith("aux.rotation.")]
    modules.sort(key=lambda name: [int(part) for part in name.split(".") if part.isdigit()])
    draws = [case[f"aux.rotation.{module}"] for module in modules]
    for keep in ("stored", "recomputed"):
        trace = network.trace(case["input"], draws=draws, keep=keep)
        case.check(trace.upscaled, "output")
        for module, affinity, drawn in zip(modules, trace.affinities, draws, strict=True):
            buckets = drawn.shape[-1] * (1 if case.system == "glan" else 2)
            case.check(with_round_offsets(affinity.codes, buckets), f"aux.hash_codes.{module}")


def check_kernel(case: Case, _: Path) -> None:
    query, key, values = (case[name][:, 0] for name in ("input", "aux.k", "aux.v"))
    for keep in ("stored", "recomputed"):
        affinity = KernelAffinity(query, key, case["weights.projection_matrix"], keep=keep)
        case.check(affinity.aggregate(values)[:, None], "output")
    for tokens, name in ((query, "aux.phi_q"), (key, "aux.phi_k")):
        case.check(random_features(tokens, case["weights.projection_matrix"])[:, None], name)


def check_contrastive_attention(case: Case, _: Path) -> None:
    config = case.config
    names = {"conv_match1.0": "operator.query", "conv_match2.0": "operator.key", "conv_assembly.0": "values"}
    names |= {"attn_fn": "operator"}
    renamed = {}
    for name, tensor in case.weights().items():
        part, end = name.rsplit(".", 1)
        renamed[f"{names[part]}.{end.removesuffix('_matrix')}"] = tensor
    operator = EfficientContrastive(config["channel"], reduction=config["reduction"])
    block = SharedAttention(config["channel"], operator, residual_scale=config["res_scale"])
    block.load_state_dict(renamed)
    for keep in ("stored", "recomputed"):
        with torch.enable_grad():
            input = case["input"].clone().requires_grad_()
            output, affinity = block(input, keep=keep)
            case.check(output.detach(), "output")
            if not config["train"]:
                continue
            loss = contrastive_loss(affinity.query, affinity.key)
            case.check(loss.detach()[None], "aux.contrastive_loss")
            objective = (output * case["aux.cotangent"]).sum() / output.numel() ** 0.5 + config["lambda_cl"] * loss
            case.check(objective.detach()[None], "aux.objective")
            parameters = {"conv_match1.0.weight": operator.query.weight, "conv_match2.0.weight": operator.key.weight}
            gradients = torch.autograd.grad(objective, [input, *parameters.values()])
        for name, gradient in zip(("_input", *(f".{name}" for name in parameters)), gradients, strict=True):
            case.check(gradient, f"aux.grad{name}")


def check_contrastive_network(case: Case, folder: Path) -> None:
    path = folder / "published.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in case.weights().items()}, path)
    network = nlsr.load(path, residual_scale=case.config["res_scale"])
    for keep in ("stored", "recomputed"):
        trace = network.trace(case["input"], keep=keep)
        case.check(trace.upscaled, "output")
        if case.config["train"]:
            case.check(network.contrastive_losses(trace), "aux.contrastive_loss")


def check_pan(case: Case, folder: Path) -> None:
    path = folder / "published.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in case.weights().items()}, path)
    network = nlsr.load(path, scale=case.config["args"]["scale"])
    case.check(network(case["input"]), "output")


def check_gated_convolution(case: Case, _: Path) -> None:
    block = PixelAttentionConv(case.config["args"]["nf"], kernel_size=case.config["args"]["k_size"])
    names = {"k2": "gate", "k3": "first", "k4": "second"}
    block.load_state_dict({names[name[:2]] + name[2:]: tensor for name, tensor in case.weights().items()})
    case.check(block(case["input"]), "output")


def check_self_calibrated_block(case: Case, _: Path) -> None:
    block = SelfCalibratedBlock(case.config["args"]["nf"])
    names = {"conv1_a": "plain_in", "conv1_b": "gated_in", "k1.0": "plain", "conv3": "join"}
    names |= {"PAConv.k2": "gated.gate", "PAConv.k3": "gated.first", "PAConv.k4": "gated.second"}
    renamed = {}
    for name, tensor in case.weights().items():
        part, end = name.rsplit(".", 1)
        renamed[f"{names[part]}.{end}"] = tensor
    block.load_state_dict(renamed)
    case.check(block(case["input"]), "output")


CHECKS = {
    ("imresize", "module"): check_resize,
    ("lcoan", "RecurrentNonLocalKmeansAttention"): check_collaborative_attention,
    ("lcoan", "Kmeans"): check_kmeans,
    ("lcoan", "network"): check_lcoan,
    ("enlcn", "ENLA"): check_kernel,
    ("enlcn", "ENLCA"): check_contrastive_attention,
    ("enlcn", "ENLCN"): check_contrastive_network,
    ("glan", "GLA"): check_sparse_attention,
    ("glan", "network"): check_hashing_network,
    ("nlan", "NonLocalAttention"): check_nonlocal,
    ("nlsn", "NonLocalSparseAttention"): check_sparse_attention,
    ("nlsn", "network"): check_hashing_network,
    ("pan", "PAN"): check_pan,
    ("pan", "PAConv"): check_gated_convolution,
    ("pan", "SCPA"): check_self_calibrated_block,
}
