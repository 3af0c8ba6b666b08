"""CSNLN: its two attentions, their fusion, the recurrent cell, the network."""

import re
from pathlib import Path

import nlsr
from nlsr.attention.cross_scale import CrossScale, CrossScaleAttention
from nlsr.attention.dense import nonlocal_attention
from nlsr.networks.csnln import CSNLNConfig, MultiSourceProjection, SelfExemplarCell
from nlsr.weights.published import Tensors
from nlsr.weights.published.csnln import PUBLISHED
from tests.checks.case import Case, published_file

FLOOR = "escape_NaN"
"""A constant that the published code keeps as a buffer."""


def check_in_scale(case: Case, _: Path) -> None:
    block = nonlocal_attention(case.config["channel"], reduction=case.config["reduction"], input_scale=0.0)
    names = {"conv_match1": "operator.query", "conv_match2": "operator.key", "conv_assembly": "values"}
    block.load_state_dict(renamed(case.weights(), names))
    case.check(block(case["input"])[0], "output")


def check_cross_scale(case: Case, _: Path) -> None:
    config = case.config
    sizes = {"reduction": config["reduction"], "softmax_scale": float(config["softmax_scale"])}
    block = CrossScaleAttention(config["channel"], CrossScale(config["channel"], config["scale"], **sizes))
    names = {"conv_match_1": "operator.query", "conv_match_2": "operator.key", "conv_assembly": "values"}
    block.load_state_dict(renamed(case.weights(), names))
    output, affinity = block.attend(case["input"])
    case.check(output, "output")
    if "aux.attn0" in case:
        matching = affinity.matching.dense()[0].T
        case.check(matching.reshape(1, -1, affinity.height, affinity.width), "aux.attn0")


def check_fusion(case: Case, _: Path) -> None:
    config, prefix = sizes(case, case.config["scale"]), "cell.stages.0.projection."
    block = MultiSourceProjection(config, config.scale)
    weights = {f"multi_source_projection.{name}": tensor for name, tensor in case.weights().items()}
    block.load_state_dict(cell_weights(weights, config, prefix))
    case.check(block(case["input"])[0], "output")


def check_cell(case: Case, _: Path) -> None:
    config = sizes(case, case.config["scale"])
    cell = SelfExemplarCell(config)
    cell.load_state_dict(cell_weights(case.weights(), config, "cell."))
    output, high_res, _ = cell(case["input"])
    case.check(output, "output")
    if "aux.h_estimate" in case:
        case.check(high_res, "aux.h_estimate")


def check_network(case: Case, folder: Path) -> None:
    network = nlsr.load(published_file(case, folder), softmax_scale=float(case.config["softmax_scale"]))
    expected = sizes(case, case.config["scale"], recurrences=case.config["depth"])
    assert network.config == expected
    case.check(network(case["input"]), "output")
    case.check(network.trace(case["input"]).upscaled, "output")


def sizes(case: Case, scale: int, **more: int) -> CSNLNConfig:
    config = case.config
    sizes = {"reduction": config["reduction"], "softmax_scale": float(config["softmax_scale"])}
    return CSNLNConfig(scale, channels=config["n_feats"], **sizes, **more)


def renamed(weights: Tensors, names: dict[str, str]) -> Tensors:
    """Tensors of an attention alone under our names."""
    parts = [(name.partition("."), tensor) for name, tensor in weights.items() if name != FLOOR]
    return {f"{names[part]}.{end}": tensor for (part, _, end), tensor in parts}


def cell_weights(weights: Tensors, config: CSNLNConfig, prefix: str) -> Tensors:
    """Tensors of a part of the cell, by the rules for whole files."""
    ours = {}
    for name, tensor in weights.items():
        rules = PUBLISHED["csnln"].rules({}, config)
        pattern, replacement = next(rule for rule in rules if re.fullmatch(rule[0], f"SEM.{name}"))
        if isinstance(replacement, str):
            ours[re.sub(pattern, replacement, f"SEM.{name}").removeprefix(prefix)] = tensor
    return ours


CHECKS = {
    ("csnln", "NonLocalAttention"): check_in_scale,
    ("csnln", "CrossScaleAttention"): check_cross_scale,
    ("csnln", "MultisourceProjection"): check_fusion,
    ("csnln", "RecurrentProjection"): check_cell,
    ("csnln", "CSNLN"): check_network,
}
