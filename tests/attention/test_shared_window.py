"""Window and grid attention against one matrix over all positions, written from the formulas."""

import pytest
import torch
from tests.tolerances import assert_close
from torch import nn

from nlsr.attention import SharedAttention
from nlsr.attention.affinity import to_tokens
from nlsr.attention.shared_window import Grids, SharedGrid, SharedWindow, SharedWindowAttention
from nlsr.attention.shifted_window import Windows
from nlsr.errors import ShapeError

LAYOUTS = ["window", "grid"]
SIZES = [(1, 1), (1, 7), (5, 7), (8, 8), (9, 17), (16, 24)]


def features(batch, height, width, dtype=torch.float64):
    return torch.randn(batch, 8, height, width, dtype=dtype, generator=torch.Generator().manual_seed(1))


def tokens(batch, length, channels=5, dtype=torch.float64):
    return torch.randn(batch, length, channels, dtype=dtype, generator=torch.Generator().manual_seed(2))


def operator(layout, side=8):
    torch.manual_seed(0)
    matching = {"window": SharedWindow, "grid": SharedGrid}[layout](8, side=side).double()
    nn.init.normal_(matching.offset_bias)
    return matching


def places(layout, height, width, side):
    """The group and the slot of each position in row-major order, by the paper's formulas."""
    rows, columns = -(-height // side), -(-width // side)
    for row in range(height):
        for column in range(width):
            if layout == "window":
                yield (row // side, column // side), (row % side, column % side)
            else:
                yield (row % rows, column % columns), (row // rows, column // columns)


def plain_matrix(matching, map):
    height, width = map.shape[2:]
    side, layout = matching.window_size, "grid" if isinstance(matching, SharedGrid) else "window"
    groups, slots = (torch.tensor(pairs) for pairs in zip(*places(layout, height, width, side), strict=True))
    together = (groups[:, None] == groups).all(-1)
    offsets = (slots[:, None] - slots + side - 1) @ torch.tensor([2 * side - 1, 1])
    positions = to_tokens(map)
    query, key = positions @ matching.query.weight.T, positions @ matching.key.weight.T
    inside = torch.where(together, offsets, 0)
    scores = query @ key.transpose(1, 2) / 8**0.5 + matching.offset_bias[inside, 0]
    return scores.masked_fill(~together, -torch.inf).softmax(-1)


@pytest.mark.parametrize("keep", ["stored", "recomputed"])
@pytest.mark.parametrize("side", [3, 8])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_and_gradients_equal_those_of_a_plain_matrix(layout, size, batch, side, keep):
    def run(plain):
        matching, map = operator(layout, side), features(batch, *size).requires_grad_()
        values = tokens(batch, size[0] * size[1]).requires_grad_()
        drawn = plain_matrix(matching, map) @ values if plain else matching.match(map, keep=keep).aggregate(values)
        drawn.pow(3).sum().backward()
        return [drawn, map.grad, values.grad, *(p.grad for p in matching.parameters())]

    for ours, expected in zip(run(plain=False), run(plain=True), strict=True):
        assert_close(ours, expected, factor=10)


@pytest.mark.parametrize("keep", ["stored", "recomputed"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_those_of_the_matrix_and_zero_outside_the_group(layout, size, keep):
    matching, map = operator(layout), features(2, *size)
    affinity, expected = matching.match(map, keep=keep), plain_matrix(matching, map)
    assert_close(affinity.dense(), expected)
    some = torch.tensor([size[0] * size[1] - 1, 0])
    assert_close(affinity.rows(some), expected[:, some])
    assert ((affinity.dense() == 0) >= (expected == 0)).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_grouped_is_restored(layout, size):
    groups, sequence = {"window": Windows, "grid": Grids}[layout](*size, 8), tokens(2, size[0] * size[1])
    assert torch.equal(groups.restore(groups.queries(sequence)), sequence)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stored_and_recomputed_affinities_agree_in_values_and_gradients_through_many_reuses(layout):
    results = []
    for keep in ("stored", "recomputed"):
        first = SharedWindowAttention(8, operator(layout)).double()
        others = nn.ModuleList(SharedWindowAttention(8).double() for _ in range(4))
        map = features(2, 9, 7).requires_grad_()
        output, affinity = first(map, keep=keep)
        for block in others:
            output, affinity = block(output, affinity)
        output.square().sum().backward()
        parameters = [*first.parameters(), *others.parameters()]
        results.append([output, map.grad, *(parameter.grad for parameter in parameters)])
    for stored, recomputed in zip(*results, strict=True):
        assert_close(stored, recomputed)


def test_a_recomputed_affinity_keeps_no_map_for_backward():
    kept = {}
    for keep in ("stored", "recomputed"):
        block, saved = SharedWindowAttention(8, operator("window")).double(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
            block(features(1, 32, 32).requires_grad_(), keep=keep)
        kept[keep] = any(tensor.numel() >= 32 * 32 * 64 for tensor in saved)
    assert kept == {"stored": True, "recomputed": False}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_block_adds_what_the_plain_matrix_draws_from_normed_features(layout, size, batch):
    block, map = SharedWindowAttention(8, operator(layout)).double(), features(batch, *size)
    nn.init.normal_(block.norm.weight)
    normed = torch.nn.functional.layer_norm(to_tokens(map), (8,), block.norm.weight, block.norm.bias)
    matrix = plain_matrix(block.operator, normed.transpose(1, 2).unflatten(2, size))
    drawn = matrix @ (normed @ block.values.weight.T) @ block.project.weight.T
    output, affinity = block(map)
    assert_close(output, map + drawn.transpose(1, 2).unflatten(2, size))
    assert_close(block(map, affinity)[0], output)


def test_a_general_block_takes_the_operator_too():
    first, second = SharedAttention(8, operator("grid")).double(), SharedAttention(8).double()
    map = features(1, 9, 5)
    output, affinity = first(map)
    drawn = plain_matrix(first.operator, map) @ to_tokens(first.values(map))
    assert_close(output, map + drawn.transpose(1, 2).unflatten(2, (9, 5)))
    assert second(output, affinity)[0].shape == map.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keep", ["stored", "recomputed"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_low_precision_stays_close_to_double_precision(layout, keep, dtype):
    matching, map = operator(layout).to(dtype), features(2, 9, 10, dtype).clamp(-1, 1)
    values = tokens(2, 90, dtype=dtype)
    affinity = matching.match(map, keep=keep)
    drawn = affinity.aggregate(values)
    assert drawn.dtype == dtype
    expected = plain_matrix(matching.double(), map.double()) @ values.double()
    assert_close(drawn, expected, factor=3)


def test_scores_are_not_rounded_under_autocast():
    matching, map = operator("window").float(), features(1, 8, 8, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        affinity = matching.match(map, keep="recomputed")
        inside = affinity.dense()
    assert torch.equal(inside, affinity.dense())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_image_alone_and_in_a_batch_draws_on_the_same_positions_equally_in_equal_calls(layout):
    matching, batch = operator(layout).float(), features(3, 13, 6, torch.float32)
    together = matching.match(batch).dense()
    assert torch.equal(matching.match(batch).dense(), together)
    for i in range(3):
        assert_close(matching.match(batch[i : i + 1]).dense()[0], together[i])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SharedWindow(8, side=0), "expected windows of at least 1 position along a side, got 0"),
        (lambda: SharedWindowAttention(8).double()(features(1, 4, 4)), "owns no operator"),
        (
            lambda: SharedWindowAttention(8).double()(features(1, 4, 4), operator("grid").match(features(1, 4, 5))),
            "expected an affinity of a 4x4 map, got one of 4x5",
        ),
    ],
)
def test_what_does_not_fit_is_said(make, message):
    with pytest.raises(ShapeError, match=message):
        make()
