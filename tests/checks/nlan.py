"""Full non-local attention."""

from pathlib import Path

from nlsr.attention import nonlocal_attention
from tests.checks.case import Case


def check_nonlocal(case: Case, _: Path) -> None:
    config, weights = case.config, case.weights()
    block = nonlocal_attention(config["channel"], reduction=config["reduction"], input_scale=config["res_scale"])
    names = {"conv_match1": block.operator.query, "conv_match2": block.operator.key, "conv_assembly": block.values}
    for name, part in names.items():
        part.load_state_dict({key.removeprefix(f"{name}."): w for key, w in weights.items() if key.startswith(name)})
    case.check(block(case["input"])[0], "output")


CHECKS = {
    ("nlan", "NonLocalAttention"): check_nonlocal,
}
