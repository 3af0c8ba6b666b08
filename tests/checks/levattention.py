"""LevAttention: scores, sets, streams, attention on sets."""

from pathlib import Path

import torch

from nlsr.attention import SharedAttention
from nlsr.attention.leverage import (
    KeySet,
    KeySetAffinity,
    KeyStream,
    Leverage,
    PowerAffinity,
    leverage_scores,
    lewis_weights,
    lifted_scores,
    threshold,
    top_r,
    two_pass_set,
)
from tests.checks.case import Case


def check_operation(case: Case, _: Path) -> None:
    OPERATIONS[case.config["op"]](case)


def check_leverage(case: Case) -> None:
    scores = leverage_scores(case["input"])
    case.check(scores, "output")
    check_sets(case, scores)
    if "rank" in case.config:
        assert abs(scores.sum().item() - case.config["rank"]) <= len(scores) * case.atol


def check_sets(case: Case, scores: torch.Tensor) -> None:
    if "aux.set_eps" in case:
        case.check(threshold(scores, case.config["eps"]).indices, "aux.set_eps")
    if "aux.set_top_r" in case:
        case.check(top_r(scores, case.config["r"]).indices, "aux.set_top_r")


def check_lewis(case: Case) -> None:
    for p in case.config["p"]:
        name = f"aux.lewis_p{p}"
        case.check(lewis_weights(case["input"], p), name if name in case else "output")


def check_softmax(case: Case) -> None:
    key, query, values = (case[name][None] for name in ("input", "aux.q", "aux.v"))
    scores = leverage_scores(case["input"])
    case.check(scores, "aux.scores")
    check_sets(case, scores)
    key_set, everything = top_r(scores[None], case.config["r"]), top_r(scores[None], len(scores))
    for keep in ("stored", "recomputed"):
        for chosen, name in ((key_set, "output"), (everything, "aux.full_attention_output")):
            affinity = KeySetAffinity(query, key, chosen, scale=case.config["scale"], keep=keep)
            case.check(affinity.aggregate(values)[0], name)


def check_power(case: Case) -> None:
    query, values = case["aux.q"][None], case["aux.v"][None]
    for p in case.config["p"]:
        scores = lifted_scores(case["input"], p)
        case.check(scores, "aux.scores_p2" if p == 2 else f"aux.scores_p{p}_lift")
        indices = threshold(scores, case.config["eps"]).indices
        case.check(indices, f"aux.set_p{p}")
        names = {"exact": "output" if p == 2 else f"aux.output_p{p}_exact", "restricted": f"aux.output_p{p}_restricted"}
        for denominator, name in names.items():
            for keep in ("stored", "recomputed"):
                affinity = PowerAffinity(
                    query, case["input"][None], KeySet(indices[None]), p=p, denominator=denominator, keep=keep
                )
                case.check(affinity.aggregate(values)[0], name)


def check_stream(case: Case) -> None:
    key, eps, chunk = case["input"], case.config["eps"], case.config["chunk"]
    case.check(leverage_scores(key), "output")
    stream, kept = KeyStream(key.shape[1], eps), []
    for rows in key.split(chunk):
        stream.update(rows)
        kept.append(torch.zeros(len(key), dtype=torch.int64).index_fill(0, stream.indices, 1))
    case.check(torch.stack(kept), "aux.kept_mask")
    case.check(stream.indices, "aux.set_eps")
    case.check(two_pass_set(lambda: key.split(chunk), eps), "aux.set_eps")
    assert (stream.scores - case["output"][stream.indices]).abs().max() <= case.atol


def check_block(case: Case) -> None:
    config = case.config
    heads = config.get("heads", 1)
    operator = Leverage(
        config["channels"], reduction=config["channels"] // config["inter_channels"], num_keys=config["r"], heads=heads
    )
    assert abs(config["scale"] - (config["inter_channels"] / heads) ** -0.5) < 1e-12
    block = SharedAttention(config["channels"], operator, residual_scale=config["res_scale"]).double()
    for name, part in {"theta": operator.query, "phi": operator.key, "g": block.values}.items():
        part.load_state_dict(case.weights(f"{name}."))
    for keep in ("stored", "recomputed"):
        output, affinity = block(case["input"], keep=keep)
        case.check(output, "output")
    keys = operator.key(case["input"]).flatten(2).mT
    keys = keys.unflatten(2, (heads, -1)).transpose(1, 2).squeeze(1)
    scores = leverage_scores(keys)
    case.check(scores, "aux.scores")
    case.check(top_r(scores, config["r"]).indices, "aux.sets")
    drawn_on = (affinity.dense() > 0).any(1).nonzero()[:, 1]
    assert torch.equal(drawn_on, case["aux.sets"].flatten())


OPERATIONS = {
    "leverage": check_leverage,
    "lewis": check_lewis,
    "one_pass_stream": check_stream,
    "power_on_universal_set": check_power,
    "softmax_on_universal_set": check_softmax,
    "sr_nonlocal": check_block,
}

CHECKS = {("levattention", "module"): check_operation}
