"""ATD, its stages and layers, and its attentions."""

from pathlib import Path
from typing import Any

import torch

import nlsr
from nlsr.attention.affinity import to_map, to_tokens
from nlsr.attention.token_dictionary import TokenCategories, TokenDictionary
from nlsr.networks.atd import ATDConfig, Layer, Stage
from tests.checks.case import Case, published_file
from tests.checks.parts import fill

WORDS = {
    "embed_dim": "channels",
    "depths": "depths",
    "num_heads": "heads",
    "window_size": "window_size",
    "category_size": "chunk_size",
    "num_tokens": "num_tokens",
    "reducted_dim": "token_width",
    "convffn_kernel_size": "kernel_size",
}
"""Published words for our config."""
UPSAMPLERS = {"pixelshuffledirect": "direct", "pixelshuffle": "classical"}


def config_of(args: dict[str, Any]) -> ATDConfig:
    sizes = {
        WORDS[word]: tuple(value) if isinstance(value, list) else value for word, value in args.items() if word in WORDS
    }
    sizes["hidden"] = int(args["embed_dim"] * args["mlp_ratio"])
    return ATDConfig(args["upscale"], **sizes, upsampler=UPSAMPLERS[args["upsampler"]])


def check_network(case: Case, folder: Path) -> None:
    config = config_of(case.config["args"])
    network = nlsr.load(published_file(case, folder), chunk_size=config.chunk_size)
    assert network.config == config
    for keep in ("stored", "recomputed"):
        trace = network.trace(case["input"], keep=keep)
        case.check(trace.upscaled, "output")
        check_labels(case, trace.affinities)


def check_stage(case: Case, _: Path) -> None:
    stage = fill(Stage(config_of(case.config["args"]), 0), case, "layers.0.", "stages.0.")
    affinities: list[Any] = []
    refined = stage(to_map(case["input"], *case.config["x_size"]), collect=affinities.append)
    case.check(to_tokens(refined), "output")
    check_labels(case, affinities)


def check_labels(case: Case, affinities: Any) -> None:
    for index, affinity in enumerate(affinities[::2]):
        if f"aux.labels.{index}" in case:
            case.check(affinity.groups()[:, 0], f"aux.labels.{index}")


def check_layer(case: Case, _: Path) -> None:
    args, trains = dict(case.config["args"]), "aux.objective" in case
    args |= {"embed_dim": args.pop("dim"), "upscale": 2, "upsampler": "pixelshuffledirect"}
    heads, shifted = args.pop("num_heads"), args["shift_size"] > 0
    layer = Layer(config_of(args), heads, shifted=shifted, refines=not args["is_last"])
    fill(layer, case, "layers.0.residual_group.layers.0.", "stages.0.layers.0.").train(trains)
    affinities: list[Any] = []
    input, dictionary = (case[name].clone().requires_grad_(trains) for name in ("input", "aux.td"))
    with torch.set_grad_enabled(trains):
        refined, after = layer(to_map(input, *case.config["x_size"]), dictionary, collect=affinities.append)
        output = to_tokens(refined)
    case.check(output, "output")
    case.check(after, "aux.td_out")
    case.check(affinities[0].groups()[:, 0], "aux.labels")
    if trains:
        with torch.enable_grad():
            objective = sum(
                (made * case[name]).sum() / made.numel() ** 0.5
                for made, name in ((output, "aux.cotangent"), (after, "aux.cotangent_td"))
            )
        objective.backward()
        case.check(objective.detach().view(1), "aux.objective")
        case.check(input.grad, "aux.grad_input")
        case.check(dictionary.grad, "aux.grad_td")
        check_gradients(case, layer)


def check_gradients(case: Case, layer: Layer) -> None:
    ours = {
        "attn_aca.logit_scale": layer.categories.log_scale,
        "attn_aca.proj.weight": layer.project_categories.weight,
        "attn_atd.scale": layer.dictionary.scale,
        "attn_atd.wq.weight": layer.dictionary.query.weight,
        "attn_atd.wk.weight": layer.dictionary.key.weight,
        "attn_atd.wv.weight": layer.dictionary.values.weight,
        "attn_win.proj.weight": layer.project_windows.weight,
        "attn_win.relative_position_bias_table": layer.windows.offset_bias,
        "norm1.weight": layer.norm.weight,
        "norm2.weight": layer.feed_forward.norm.weight,
        "norm3.weight": layer.refine and layer.refine.weight,
        "norm3.bias": layer.refine and layer.refine.bias,
        "sigma": layer.refine and layer.refine.kept,
        "wqkv.weight": layer.embed.weight,
    }
    for name in (name.removeprefix("aux.grad.") for name in case.tensors if name.startswith("aux.grad.")):
        case.check(ours[name].grad, f"aux.grad.{name}")


def check_dictionary(case: Case, _: Path) -> None:
    args = case.config["args"]
    part = TokenDictionary(args["dim"], args["num_tokens"], args["reducted_dim"])
    fill(part, case, "layers.0.residual_group.layers.0.attn_atd.", "stages.0.layers.0.dictionary.")
    drawn, affinity = part(case["input"], case["aux.td"], (1, case["input"].shape[1]))
    case.check(drawn, "output")
    case.check(affinity.dense(), "aux.sim")


def check_categories(case: Case, _: Path) -> None:
    args = case.config["args"]
    operator = TokenCategories(args["dim"], heads=args["num_heads"], chunk_size=args["category_size"], num_tokens=None)
    operator.log_scale.copy_(case["weights.logit_scale"])
    query, key, values = case["input"].chunk(3, dim=-1)
    labels = case["aux.sim"].argmax(-1)
    case.check(labels, "aux.labels")
    for keep in ("stored", "recomputed"):
        affinity = operator.match_labelled(labels, query, key, 1, query.shape[1], keep=keep)
        case.check(affinity.layout.order[:, : query.shape[1]], "aux.order")
        drawn = affinity.aggregate(values)
        case.check(drawn @ case["weights.proj.weight"].T + case["weights.proj.bias"], "output")


CHECKS = {
    ("atd", "ATD"): check_network,
    ("atd", "ATDB (first stage)"): check_stage,
    ("atd", "ATDTransformerLayer"): check_layer,
    ("atd", "ATD_CA"): check_dictionary,
    ("atd", "AC_MSA"): check_categories,
}
