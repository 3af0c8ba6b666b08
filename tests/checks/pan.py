"""PAN and its parts."""

from pathlib import Path

import nlsr
from nlsr.attention import PixelAttentionConv
from nlsr.networks.pan import SelfCalibratedBlock
from tests.checks.case import Case, published_file


def check_pan(case: Case, folder: Path) -> None:
    network = nlsr.load(published_file(case, folder), scale=case.config["args"]["scale"])
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
    ("pan", "PAN"): check_pan,
    ("pan", "PAConv"): check_gated_convolution,
    ("pan", "SCPA"): check_self_calibrated_block,
}
