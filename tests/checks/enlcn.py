"""ENLCN: attention, loss, network."""

from pathlib import Path

import torch

import nlsr
from nlsr.attention import EfficientContrastive, KernelAffinity, SharedAttention, contrastive_loss
from nlsr.attention.efficient_contrastive import random_features
from tests.checks.case import Case, published_file


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
    network = nlsr.load(published_file(case, folder), residual_scale=case.config["res_scale"])
    for keep in ("stored", "recomputed"):
        trace = network.trace(case["input"], keep=keep)
        case.check(trace.upscaled, "output")
        if case.config["train"]:
            case.check(network.attention_losses(trace), "aux.contrastive_loss")


CHECKS = {
    ("enlcn", "ENLA"): check_kernel,
    ("enlcn", "ENLCA"): check_contrastive_attention,
    ("enlcn", "ENLCN"): check_contrastive_network,
}
