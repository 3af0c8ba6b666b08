"""NLSN and DLSN, whose attentions hash."""

from pathlib import Path

import nlsr
from nlsr.attention import GlobalLearnable, NonLocalSparse, SharedAttention, global_learnable_attention
from tests.checks.case import Case, published_file, with_round_offsets


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
    config = case.config
    unsaid = {"chunk_size": config["chunk_size"]} if case.system == "nlsn" else {}
    network = nlsr.load(
        published_file(case, folder), residual_scale=config["res_scale"], rounds=config["n_hashes"], **unsaid
    )
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


CHECKS = {
    ("glan", "GLA"): check_sparse_attention,
    ("glan", "network"): check_hashing_network,
    ("nlsn", "NonLocalSparseAttention"): check_sparse_attention,
    ("nlsn", "network"): check_hashing_network,
}
