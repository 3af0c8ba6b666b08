"""CATANet, its block and its attentions."""

from pathlib import Path
from typing import Any

import torch

import nlsr
from nlsr.attention.grouped import EveryKey, GroupAffinity
from nlsr.attention.overlapping_window import OverlappingWindow, OverlappingWindowAttention
from nlsr.attention.sorted_chunks import SortedChunks
from nlsr.attention.token_aggregation import TokenAggregation, TokenAggregationAttention
from nlsr.networks.catanet import Block, CATANetConfig
from nlsr.networks.feed_forward import ConvFeedForward
from tests.checks.case import Case, published_file
from tests.checks.parts import fill

SETTING = {
    "dim": "channels",
    "qk_dim": "width",
    "mlp_dim": "hidden",
    "heads": "heads",
    "num_tokens": "num_centres",
    "group_size": "chunk_sizes",
    "n_iters": "num_steps",
    "patch_size": "window_sizes",
    "ema_decay": "centre_decay",
}
"""Published words for our config."""


def check_catanet(case: Case, folder: Path) -> None:
    """A whole network, or its first block."""
    (check_block if case.level == "block" else check_network)(case, folder)


def check_network(case: Case, folder: Path) -> None:
    config = sizes(case) | {"overlap_average": "published"}
    network = nlsr.load(published_file(case, folder), **{name: config[name] for name in config.keys() & UNSAID})
    assert network.config == CATANetConfig(case.config["args"]["upscale"], **config)
    for keep in ("stored", "recomputed"):
        trace = network.trace(case["input"], keep=keep)
        case.check(trace.upscaled, "output")
        check_labels(case, trace.affinities[::2])


UNSAID = {"heads", "chunk_sizes", "num_steps", "window_sizes", "centre_decay", "overlap_average"}
"""What a file does not say."""


def check_block(case: Case, _: Path) -> None:
    config = CATANetConfig(2, **sizes(case), overlap_average="published")
    block = fill(Block(config, 0), case, "", "blocks.0.")
    affinities: list[Any] = []
    case.check(block(case["input"], None, collect=affinities.append)[0], "output")
    check_labels(case, affinities[:1])


def check_labels(case: Case, affinities: Any) -> None:
    for index, affinity in enumerate(affinities):
        if f"aux.labels.{index}" in case:
            case.check(affinity.groups()[:, 0], f"aux.labels.{index}")


def check_aggregation(case: Case, _: Path) -> None:
    """TAB: the attention and its feed-forward, in evaluation or training."""
    args, training = case.config["args"], case.config.get("mode") == "train"
    operator = TokenAggregation(
        args["dim"],
        width=args["qk_dim"],
        heads=args["heads"],
        num_centres=args["num_tokens"],
        chunk_size=args["group_size"],
        num_steps=args["n_iter"],
        centre_decay=args["ema_decay"],
    )
    parts = torch.nn.ModuleDict(
        {
            "aggregation": TokenAggregationAttention(args["dim"], operator),
            "first_feed_forward": ConvFeedForward(args["dim"], args["mlp_dim"]),
        }
    )
    fill(parts, case, "blocks.0.0.", "blocks.0.").train(training)
    for keep in ("stored", "recomputed"):
        parts.zero_grad()
        with torch.set_grad_enabled(training):
            input = case["input"].clone().requires_grad_(training)
            refined, matched = parts["aggregation"](input, keep=keep)
            output = parts["first_feed_forward"](refined)
        case.check(output, "output")
        case.check(matched.positions.groups()[:, 0], "aux.labels")
        if "aux.order" in case:
            case.check(matched.positions.layout.order[:, : input[0, 0].numel()], "aux.order")
        if training:
            with torch.enable_grad():
                objective = (output * case["aux.cotangent"]).sum() / output.numel() ** 0.5
            objective.backward()
            case.check(objective.detach().view(1), "aux.objective")
            check_gradients(case, parts, input)
    if "aux.means_after" in case:
        operator.learn_from(matched.positions)
        case.check(operator.centres.means, "aux.means_after")
        case.check(operator.centres.initialised, "aux.initted_after")


def check_gradients(case: Case, parts: torch.nn.ModuleDict, input: torch.Tensor) -> None:
    case.check(input.grad, "aux.grad_input")
    attention = parts["aggregation"]
    ours = {
        "iasa_attn.to_q.weight": attention.operator.query.weight,
        "iasa_attn.to_k.weight": attention.operator.key.weight,
        "iasa_attn.to_v.weight": attention.values.weight,
        "iasa_attn.proj.weight": attention.project.weight,
        "irca_attn.to_k.weight": attention.centre_key.weight,
        "irca_attn.to_v.weight": attention.centre_values.weight,
        "conv1x1.weight": attention.mix.weight,
        "norm.weight": attention.norm.weight,
        "norm.bias": attention.norm.bias,
    }
    for name in (name.removeprefix("aux.grad.") for name in case.tensors if name.startswith("aux.grad.")):
        case.check(ours[name].grad, f"aux.grad.{name}")


def check_sorted_attention(case: Case, _: Path) -> None:
    """IASA: the order is given, and so are keys and values of the centres."""
    heads, tokens = case.config["args"]["heads"], case["input"]
    query, key, values = (tokens @ case[f"weights.to_{part}.weight"].T for part in "qkv")
    query = query * (query.shape[2] // heads) ** -0.5
    ranks = torch.empty_like(case["aux.order"]).scatter_(
        1, case["aux.order"], torch.arange(tokens.shape[1]).expand(len(tokens), -1)
    )
    layout = SortedChunks(ranks, chunk_size=case.config["args"]["group_size"], span=2)
    given = (case[f"aux.{part}_global"].transpose(0, 1).flatten(1).expand(len(tokens), -1, -1) for part in "kv")
    centre_key, centre_values = given
    for keep in ("stored", "recomputed"):
        positions = GroupAffinity(layout, query, key, heads=heads, keep=keep)
        centres = GroupAffinity(
            EveryKey(1, tokens.shape[1], centre_key.shape[1]), query, centre_key, heads=heads, keep=keep
        )
        drawn = positions.aggregate(values) + centres.aggregate(centre_values)
        case.check(drawn @ case["weights.proj.weight"].T, "output")


def check_local(case: Case, _: Path) -> None:
    """LRSA: the attention and its feed-forward."""
    args = case.config["args"]
    window = OverlappingWindow(
        args["dim"],
        width=args["qk_dim"],
        heads=args["heads"],
        window_size=case.config["call"]["ps"],
        average="published",
    )
    parts = torch.nn.ModuleDict(
        {
            "local": OverlappingWindowAttention(args["dim"], window),
            "second_feed_forward": ConvFeedForward(args["dim"], args["mlp_dim"]),
        }
    )
    fill(parts, case, "blocks.0.1.", "blocks.0.")
    for keep in ("stored", "recomputed"):
        case.check(parts["second_feed_forward"](parts["local"](case["input"], keep=keep)[0]), "output")


def sizes(case: Case) -> dict[str, Any]:
    """The fields of our config that a case names."""
    named = {**case.config.get("setting", {}), **case.config["args"]}
    return {
        SETTING[word]: tuple(value) if isinstance(value, list) else value
        for word, value in named.items()
        if word in SETTING
    }


CHECKS = {
    ("catanet", "CATANet"): check_catanet,
    ("catanet", "TAB"): check_aggregation,
    ("catanet", "IASA"): check_sorted_attention,
    ("catanet", "LRSA"): check_local,
}
