"""SMFANet and its parts."""

from pathlib import Path

import nlsr
from nlsr.networks.smfanet import PartialFeedForward, SelfModulation
from tests.checks.case import Case, published_file

MODULATION = {"linear_0": "split", "linear_1": "modulate", "linear_2": "join", "dw_conv": "pooled"}
MODULATION |= {"lde.conv_0.0": "local_depthwise", "lde.conv_0.1": "local_mix", "lde.conv_1": "local_join"}
FEED_FORWARD = {"conv_0": "widen", "conv_1": "convolve", "conv_2": "join"}


def check_smfanet(case: Case, folder: Path) -> None:
    case.check(nlsr.load(published_file(case, folder))(case["input"]), "output")


def check_self_modulation(case: Case, _: Path) -> None:
    block = SelfModulation(case.config["args"]["dim"])
    shares = {"alpha": "pooled_share", "belt": "variance_share"}
    block.load_state_dict({shares.get(name) or _renamed(name, MODULATION): t for name, t in case.weights().items()})
    case.check(block(case["input"]), "output")


def check_feed_forward(case: Case, _: Path) -> None:
    block = PartialFeedForward(case.config["args"]["dim"], case.config["args"]["growth_rate"])
    block.load_state_dict({_renamed(name, FEED_FORWARD): tensor for name, tensor in case.weights().items()})
    case.check(block(case["input"]), "output")


def _renamed(name: str, names: dict[str, str]) -> str:
    part, end = name.rsplit(".", 1)
    return f"{names[part]}.{end}"


CHECKS = {
    ("smfanet", "SMFANet"): check_smfanet,
    ("smfanet", "SMFA"): check_self_modulation,
    ("smfanet", "PCFN"): check_feed_forward,
}
