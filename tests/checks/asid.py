"""ASID, its groups and its parts."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

import nlsr
from nlsr.attention.channel import ChannelAttention
from nlsr.attention.focused_window import FocusedAffinity
from nlsr.attention.shared_window import Grids
from nlsr.attention.shifted_window import Windows
from nlsr.networks.asid import SIDE, Group, LocalBlock, SpatialGate
from nlsr.upscale.published_tiles import average_tiles
from nlsr.weights.published.asid import PUBLISHED
from tests.checks.case import Case, published_file


@contextmanager
def one_thread() -> Iterator[None]:
    """As the published numbers were made: they are so large that float32 keeps no digit to spare, and convolutions
    round differently in several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def check_asid(case: Case, folder: Path) -> None:
    config = case.config
    network = nlsr.load(published_file(case, folder), signed=False)  # the case says what the network itself sees
    assert network.config.channels == config["args"]["num_feat"]
    assert network.scale == config["args"]["upsampling"]
    for keep in ("stored", "recomputed"):

        def upscale(image: torch.Tensor, keep=keep) -> torch.Tensor:
            return network.trace(image, keep=keep).upscaled

        if config.get("inference") == "tiled":
            upscaled = average_tiles(upscale, case["input"], tile=config["tile"], overlap=config["tile_overlap"])
        else:
            upscaled = upscale(case["input"])
        case.check(upscaled, "output")


@one_thread()
def check_group(case: Case, _: Path) -> None:
    """A whole group or its distillation: of the first, which matches, or of another, which is given six affinities."""
    matches = any(name.endswith("to_qkv.weight") for name in case.tensors)
    group = Group(case["input"].shape[1], matches=matches)
    if case.config["class"].startswith("IDSG"):
        index = 0 if matches else 1
        part = fill(group, case, f"block{index}.", f"groups.{index}.")
    else:
        part = fill(group.distillation, case, "block1.residual_layer.", "groups.1.distillation.")
    given = None if matches else given_affinities(case)
    for keep in ("stored", "recomputed"):
        output, affinities = part(case["input"], given, keep=keep)
        case.check(output, "output")
        for i, affinity in enumerate(affinities, start=1):
            if f"aux.a{i}" in case:
                layout = "grid" if i % 2 == 0 else "window"
                error = affinity.dense() - over_positions(case[f"aux.a{i}"], case["input"].shape, layout)
                assert error.abs().max() <= case.atol, f"rows of aux.a{i}"


def given_affinities(case: Case) -> tuple[FocusedAffinity, ...]:
    """Of given weights, all of which are kept."""
    kinds = (Grids, Windows)
    return tuple(
        FocusedAffinity(kinds[i % 2](*case["input"].shape[2:], SIDE), [(case[f"aux.a{i}"], None)]) for i in range(1, 7)
    )


def over_positions(map: torch.Tensor, shape: torch.Size, layout: str) -> torch.Tensor:
    """A published map as one matrix over all positions, slot by slot from the formulas; independent of our grouping."""
    batch, _, height, width = shape
    rows, columns = height // SIDE, width // SIDE
    dense = torch.zeros(batch, height * width, height * width)
    for index, weights in enumerate(map[:, 0]):
        b, x, y = index // (rows * columns), index // columns % rows, index % columns
        positions = []
        for slot in range(SIDE**2):
            i, j = divmod(slot, SIDE)
            row, column = (SIDE * x + i, SIDE * y + j) if layout == "window" else (i * rows + x, j * columns + y)
            positions.append(row * width + column)
        dense[b, torch.tensor(positions)[:, None], torch.tensor(positions)] = weights
    return dense


@one_thread()
def check_channel_attention(case: Case, _: Path) -> None:
    args, grid = case.config["args"], case.config["class"].endswith("grid")
    part = ChannelAttention(args["dim"], pattern="grid" if grid else "window", side=args["window_size"])
    fill(part, case, "block0.residual_layer.BlockC.cttn1.", "groups.0.distillation.channel_blocks.0.attention.")
    case.check(part(case["input"]), "output")


@one_thread()
def check_local_block(case: Case, _: Path) -> None:
    part = LocalBlock(case["input"].shape[1])
    fill(part, case, "block0.residual_layer.LB1.", "groups.0.distillation.stages.0.local.")
    case.check(part(case["input"]), "output")


@one_thread()
def check_spatial_gate(case: Case, _: Path) -> None:
    part = fill(SpatialGate(case["input"].shape[1]), case, "block0.esa.", "groups.0.gate.")
    case.check(part(case["input"]), "output")


def fill(part: nn.Module, case: Case, published: str, ours: str) -> nn.Module:
    """Load the weights of a part, by the names they would have within a whole network."""
    rules, renamed = PUBLISHED["asid"].rules({}, None), {}
    for name, tensor in case.weights().items():
        matched = ((re.fullmatch(pattern, published + name), new) for pattern, new in rules)
        match, names = next((match, new) for match, new in matched if match)
        names = (names,) if isinstance(names, str) else names
        for new, piece in zip(names, tensor.chunk(len(names)), strict=True):
            renamed[match.expand(new).removeprefix(ours)] = piece
    part.load_state_dict(renamed)
    return part.eval()


CHECKS = {
    ("asid", "ASID"): check_asid,
    ("asid", "ASIDd8"): check_asid,
    ("asid", "Channel_Attention"): check_channel_attention,
    ("asid", "Channel_Attention_grid"): check_channel_attention,
    ("asid", "ESA"): check_spatial_gate,
    ("asid", "IDSA_Block1"): check_group,
    ("asid", "IDSA_Block2"): check_group,
    ("asid", "IDSG"): check_group,
    ("asid", "IDSG_A"): check_group,
    ("asid", "LB"): check_local_block,
}
