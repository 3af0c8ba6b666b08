"""PFT, its stages and its attention."""

import itertools
from pathlib import Path
from typing import Any

import torch

import nlsr
from nlsr.attention.affinity import to_map, to_tokens
from nlsr.attention.focused_window import FocusedAffinity, FocusedWindow
from nlsr.networks.pft import PFTConfig, Stage
from tests.checks.case import Case, published_file
from tests.checks.parts import fill

WORDS = {
    "embed_dim": "channels",
    "depths": "depths",
    "num_heads": "heads",
    "window_size": "window_size",
    "num_topk": "num_keys",
    "convffn_kernel_size": "kernel_size",
}
"""Published words for our config."""
UPSAMPLERS = {"pixelshuffledirect": "direct", "pixelshuffle": "classical"}


def config_of(args: dict[str, Any]) -> PFTConfig:
    sizes = {
        WORDS[word]: tuple(value) if isinstance(value, list) else value for word, value in args.items() if word in WORDS
    }
    sizes["hidden"] = int(args["embed_dim"] * args["mlp_ratio"])
    return PFTConfig(args.get("upscale", 2), **sizes, upsampler=UPSAMPLERS[args["upsampler"]])


def check_network(case: Case, folder: Path) -> None:
    config = config_of(case.config["args"])
    unsaid = {"num_keys": config.num_keys} | ({"heads": config.heads} if config.channels <= 100 else {})
    network = nlsr.load(published_file(case, folder), **unsaid)
    assert network.config == config
    for keep in ("stored", "recomputed"):
        case.check(network.trace(case["input"], keep=keep).upscaled, "output")


def check_stage(case: Case, _: Path) -> None:
    config, trains = config_of(case.config["args"]), "aux.objective" in case
    stage = fill(Stage(config, 0), case, "layers.0.", "stages.0.").train(trains)
    height, width = case.config["x_size"]
    with torch.set_grad_enabled(trains):
        input = case["input"].clone().requires_grad_(trains)
        refined, state = stage(to_map(input, height, width), collect=lambda _: None)
        output = to_tokens(refined)
    case.check(output, "output")
    for shift, kept in enumerate(state):
        values, indices = case[f"aux.values_shift{shift}"], case[f"aux.indices_shift{shift}"]
        expected = over_positions(values, indices, height, width, config.window_size, shift)
        assert_same(kept, expected, case.atol)
    if trains:
        with torch.enable_grad():
            objective = (output * case["aux.cotangent"]).sum() / output.numel() ** 0.5
        objective.backward()
        case.check(objective.detach().view(1), "aux.objective")
        case.check(input.grad, "aux.grad_input")
        check_gradients(case, stage)


def check_gradients(case: Case, stage: Stage) -> None:
    words = {"attn_win.proj": "project_windows", "wqkv": "embed", "v_LePE.depthwise_conv.0": "place", "norm1": "norm"}
    words |= {"attn_win.relative_position_bias_table": "windows.offset_bias"}
    ours = dict(stage.named_parameters())
    for name in (name for name in case.tensors if name.startswith("aux.grad.")):
        number, rest = name.removeprefix("aux.grad.residual_group.layers.").split(".", 1)
        theirs = next(word for word in words if rest.startswith(word))
        case.check(ours[f"layers.{number}.{words[theirs]}{rest.removeprefix(theirs)}"].grad, name)


def check_attention(case: Case, _: Path) -> None:
    """One call on windows: of a rolled map whose windows are given, or of one window per image."""
    args, shift = case.config["args"], case.config["call"]["shift"]
    side = args["window_size"][0]
    across = int(len(case["aux.mask"]) ** 0.5) if shift else 1
    height = width = across * side
    query, key, values, placed = (
        from_windows(part, height, width, side, shift) for part in case["input"].chunk(4, dim=-1)
    )
    operator = FocusedWindow(
        args["dim"],
        heads=args["num_heads"],
        window_size=side,
        shifted=bool(shift),
        shared_bias=case["weights.relative_position_bias_table"].shape[1] == 1,
        embeds=False,
        num_keys=args["num_topk"][args["layer_id"]],
    )
    operator.offset_bias.copy_(case["weights.relative_position_bias_table"])
    before = None
    if "aux.values_in" in case:
        before = FocusedAffinity(operator.layout(height, width), [(case["aux.values_in"], case["aux.indices_in"])])
    affinity = operator.match_embedded(query, key, height, width, before=before)
    drawn = (affinity.aggregate(values) + placed) @ case["weights.proj.weight"].T + case["weights.proj.bias"]
    expected = from_windows(case["output"], height, width, side, shift)
    assert (drawn - expected).abs().max() <= case.atol
    kept = over_positions(case["aux.values_out"], case["aux.indices_out"], height, width, side, shift)
    assert_same(affinity, kept, case.atol)


def from_windows(windows: torch.Tensor, height: int, width: int, side: int, shift: int) -> torch.Tensor:
    """Tokens of whole maps, from those of the windows of rolled ones."""
    places = window_places(height, width, side, shift)
    tokens = windows.new_zeros(len(windows) // len(places), height * width, windows.shape[2])
    tokens[:, places.flatten()] = windows.reshape(len(tokens), height * width, -1)
    return tokens


def over_positions(
    values: torch.Tensor, indices: torch.Tensor, height: int, width: int, side: int, shift: int
) -> torch.Tensor:
    """Published weights and key slots as one matrix over all positions; independent of our windows."""
    places = window_places(height, width, side, shift)
    groups, heads = values.shape[:2]
    batch = groups // len(places)
    dense = torch.zeros(batch * heads, height * width, height * width)
    for group, head in itertools.product(range(groups), range(heads)):
        mine = places[group % len(places)]
        dense[group // len(places) * heads + head, mine[:, None], mine[indices[group, head]]] = values[group, head]
    return dense


def window_places(height: int, width: int, side: int, shift: int) -> torch.Tensor:
    """The position in each slot of each window of the map, rolled by half a window if it is shifted."""
    map = torch.arange(height * width).view(height, width)
    if shift:
        map = map.roll((-(side // 2), -(side // 2)), (0, 1))
    windows = map.view(height // side, side, width // side, side).transpose(1, 2)
    return windows.reshape(-1, side * side)


def assert_same(affinity: FocusedAffinity, expected: torch.Tensor, tolerance: float) -> None:
    """Equal weights on the same keys; those that the published mask leaves have weights that are next to nothing."""
    actual = affinity.dense()
    assert (actual - expected).abs().max() <= tolerance
    assert torch.equal(actual > 1e-12, expected > 1e-12)


CHECKS = {
    ("pft", "PFT"): check_network,
    ("pft", "PFTB (first stage of PFT)"): check_stage,
    ("pft", "WindowAttention"): check_attention,
}
