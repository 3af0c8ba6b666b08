"""Sorted chunks and windows with heads against one matrix over all positions, written from the papers' formulas."""

import itertools

import pytest
import torch
from tests.tolerances import assert_close

from nlsr.attention import SharedAttention
from nlsr.attention.affinity import to_tokens
from nlsr.attention.overlapping_window import OverlappingWindow, OverlappingWindowAttention, OverlappingWindows
from nlsr.attention.shifted_window import ShiftedWindow
from nlsr.attention.token_aggregation import TokenAggregation, TokenAggregationAttention, block_means
from nlsr.attention.token_dictionary import TokenCategories
from nlsr.errors import ShapeError

SIZES = [(1, 1), (1, 7), (2, 2), (5, 7), (12, 12), (33, 9)]
OPERATORS = {
    "tokens": lambda heads: TokenAggregation(8, width=6, heads=heads, num_centres=5, chunk_size=24),
    "tokens, small chunks": lambda heads: TokenAggregation(8, width=6, heads=heads, num_centres=3, chunk_size=4),
    "overlapping windows": lambda heads: OverlappingWindow(8, width=6, heads=heads, window_size=6),
    "overlapping windows, as published": lambda heads: OverlappingWindow(
        8, width=6, heads=heads, window_size=5, average="published"
    ),
    "shifted windows": lambda heads: ShiftedWindow(8, heads=heads, window_size=6, shifted=True),
    "windows": lambda heads: ShiftedWindow(8, heads=heads, window_size=5, shared_bias=True),
    "categories": lambda heads: TokenCategories(8, heads=heads, chunk_size=12, num_tokens=5),
}


def features(batch, height, width, dtype=torch.float64):
    return torch.randn(batch, 8, height, width, dtype=dtype, generator=torch.Generator().manual_seed(1))


def tokens(batch, length, channels=4, dtype=torch.float64):
    return torch.randn(batch, length, channels, dtype=dtype, generator=torch.Generator().manual_seed(2))


def build(name, heads=1):
    torch.manual_seed(0)
    return OPERATORS[name](heads).double().eval()


def plain_matrix(operator, map):
    """Of all heads, folded into the batch."""
    batch, _, height, width = map.shape
    query, key = operator.query(to_tokens(map)), operator.key(to_tokens(map))
    part = query.shape[2] // operator.heads
    scale = operator.log_scale.exp()[0, 0] if isinstance(operator, TokenCategories) else part**-0.5
    matrices = []
    for b, h in itertools.product(range(batch), range(operator.heads)):
        mine = slice(h * part, (h + 1) * part)
        scores = query[b, :, mine] @ key[b, :, mine].T * scale
        if isinstance(operator, ShiftedWindow):
            scores = scores + offset_bias(operator, h, height, width)
        matrix = torch.zeros_like(scores)
        for queries, keys, share in groups_of(operator, map[b], height, width):
            places = torch.tensor(queries)[:, None], torch.tensor(keys)
            weights = torch.tensor(share, dtype=scores.dtype)[:, None] * scores[places].softmax(1)
            matrix = matrix.index_put(places, weights, accumulate=True)
        matrices.append(matrix)
    return torch.stack(matrices)


def groups_of(operator, map, height, width):
    """Lists of query positions, of key positions, and of how much each query takes."""
    if isinstance(operator, TokenAggregation | TokenCategories):
        yield from sorted_groups(operator, map.flatten(1).T)
    elif isinstance(operator, ShiftedWindow):
        yield from shifted_windows(operator, height, width)
    else:
        yield from windows(operator, height, width)


def shifted_windows(operator, height, width):
    """Half a window before the border; what the published roll joins across the border is masked there."""
    side, half = operator.window_size, operator.window_size // 2 if operator.shifted else 0
    members = {}
    for row, column in itertools.product(range(height), range(width)):
        members.setdefault(((row - half) // side, (column - half) // side), []).append(row * width + column)
    for inside in members.values():
        yield inside, inside, [1.0] * len(inside)


def offset_bias(operator, head, height, width):
    """Of all pairs of positions, by their offset; where it is larger than a window it is not used."""
    reach = operator.window_size - 1
    rows, columns = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    down, across = ((place[:, None] - place).clamp(-reach, reach) + reach for place in (rows, columns))
    bias = operator.offset_bias
    return bias[down * (2 * reach + 1) + across, min(head, bias.shape[1] - 1)]


def sorted_groups(operator, positions):
    tokens_of = operator.dictionary if isinstance(operator, TokenCategories) else operator.centres.means
    centres = torch.nn.functional.normalize(tokens_of.double(), dim=1)
    labels = (torch.nn.functional.normalize(positions, dim=1) @ centres.T).argmax(1).tolist()
    order = sorted(range(len(labels)), key=labels.__getitem__)
    size = min(len(order), operator.chunk_size)
    there_and_back = order + order[::-1]
    endless = there_and_back * (2 + 2 * size // len(order))
    for start in range(0, len(order), size):
        queries = order[start : start + size]
        keys = endless[start : start + (1 if isinstance(operator, TokenCategories) else 2) * size]
        yield queries, keys, [1.0] * len(queries)


def windows(operator, height, width):
    """Window by window, pixel by pixel."""
    down, across = (starts(length, operator) for length in (height, width))
    shares = [share(length, operator) for length in (height, width)]
    for (top, bottom), (left, right) in itertools.product(down, across):
        rows, columns = range(top, bottom), range(left, right)
        inside = [(row, column) for row in rows for column in columns]
        positions = [row * width + column for row, column in inside]
        yield positions, positions, [shares[0][row] * shares[1][column] for row, column in inside]


def starts(length, operator):
    size = operator.window_size
    if operator.average == "published" and size / 2 < length < size:
        return [(length - (size - length), length)]
    if length <= size:
        return [(0, length)]
    firsts = range(0, length - 2, size - 2)
    return [(min(first, length - size), min(first, length - size) + size) for first in firsts]


def share(length, operator):
    counts = [sum(first <= place < last for first, last in starts(length, operator)) for place in range(length)]
    if operator.average == "published":
        return [{0: 0, 1: 1, 2: 1 / 2, 3: 1 / 4}[count] for count in counts]
    return [1 / count for count in counts]


@pytest.mark.parametrize("keep", ["stored", "recomputed"])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OPERATORS)
def test_values_and_gradients_equal_those_of_a_plain_matrix(name, size, heads, keep):
    def run(plain):
        operator, map = build(name, heads), features(2, *size).requires_grad_()
        values = tokens(2, size[0] * size[1]).requires_grad_()
        if plain:
            by_head = values.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1)
            drawn = (plain_matrix(operator, map) @ by_head).unflatten(0, (2, heads)).transpose(1, 2).flatten(2)
        else:
            drawn = operator.match(map, keep=keep).aggregate(values)
        drawn.pow(3).sum().backward()
        return [drawn, map.grad, values.grad, *(p.grad for p in operator.parameters())]

    for ours, expected in zip(run(plain=False), run(plain=True), strict=True):
        assert_close(ours, expected, factor=10)


@pytest.mark.parametrize("keep", ["stored", "recomputed"])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OPERATORS)
def test_rows_are_those_of_the_matrix_and_zero_out_of_reach(name, size, heads, keep):
    operator, map = build(name, heads), features(2, *size)
    affinity, expected = operator.match(map, keep=keep), plain_matrix(operator, map)
    assert_close(affinity.dense(), expected)
    some = torch.tensor([size[0] * size[1] - 1, 0])
    assert_close(affinity.rows(some), expected[:, some])
    for query in some:
        reached = affinity.reach(query[None])
        assert torch.equal(reached, (expected[:, query] > 0).any(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keep", ["stored", "recomputed"])
@pytest.mark.parametrize("name", OPERATORS)
def test_low_precision_stays_close_to_the_matrix(name, keep, dtype):
    operator = build(name).to(dtype)
    affinity = operator.match(features(2, 8, 9, dtype).clamp(-1, 1), keep=keep)
    values = tokens(2, 72, dtype=dtype)
    drawn = affinity.aggregate(values)
    assert drawn.dtype == dtype
    assert_close(drawn, affinity.dense().double() @ values.double(), factor=3)


@pytest.mark.parametrize("name", OPERATORS)
def test_stored_and_recomputed_affinities_agree_through_many_reuses(name):
    results = []
    for keep in ("stored", "recomputed"):
        torch.manual_seed(0)
        first = SharedAttention(8, build(name, heads=2)).double()
        others = torch.nn.ModuleList(SharedAttention(8).double() for _ in range(3))
        input = features(2, 9, 7).requires_grad_()
        output, affinity = first(input, keep=keep)
        for block in others:
            output, affinity = block(output, affinity)
        output.square().sum().backward()
        results.append((output, input.grad, first.operator.key.weight.grad, others[2].values.weight.grad))
    for stored, recomputed in zip(*results, strict=True):
        assert_close(stored, recomputed)


@pytest.mark.parametrize("name", [name for name in OPERATORS if not name.endswith("windows") or "over" in name])
def test_gradients_of_gradients_of_a_fused_kernel_are_refused(name):
    input = features(1, 5, 7).requires_grad_()
    drawn = build(name).match(input, keep="recomputed").aggregate(tokens(1, 35))
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(drawn.pow(2).sum(), input, create_graph=True)


@pytest.mark.parametrize("name", OPERATORS)
def test_an_image_alone_and_in_a_batch_draws_on_the_same_positions_in_evaluation(name):
    operator, batch = build(name, heads=2), features(3, 13, 6)
    together = operator.match(batch).dense().unflatten(0, (3, 2))
    for i in range(3):
        assert_close(operator.match(batch[i : i + 1]).dense(), together[i])


def test_equal_labels_stay_in_row_major_order():
    """Above 16 positions an unstable sort mixes them."""
    operator = build("tokens")
    operator.centres.means.fill_(1.0)
    affinity = operator.match(features(1, 20, 20))
    assert torch.equal(affinity.layout.order[0, :400], torch.arange(400))
    assert torch.equal(affinity.groups(), torch.zeros(1, 1, 400, dtype=torch.int64))


def test_training_refines_the_centres_on_the_batch_and_changes_no_buffer():
    operator, map = build("tokens").train(), features(2, 6, 7)
    before = operator.centres.means.clone()
    centres = operator.match(map).centres
    assert_close(centres.norm(dim=1), torch.ones(5, dtype=torch.float64))
    assert torch.equal(operator.centres.means, before)
    assert not operator.centres.initialised


def test_centres_learn_the_same_however_a_batch_is_divided():
    maps = [features(4, 6, 7), features(4, 6, 7).flip(1)]
    whole, parted = build("tokens").train(), build("tokens").train()
    for map in maps:
        whole.learn_from(whole.match(map))
        observed = [parted.observe(parted.match(part))[0] for part in map.split(1)]
        parted.learn(torch.cat(observed), generator=torch.Generator())
    assert whole.centres.initialised
    assert_close(whole.centres.means, parted.centres.means)


def test_the_average_moves_by_its_decay_and_starts_with_the_first_batch():
    operator, map = build("tokens").train(), features(2, 6, 7)
    first = operator.match(map).centres
    operator.learn_from(operator.match(map))
    assert_close(operator.centres.means, first.detach())
    operator.centres.decay = 0.75
    second = operator.match(map.flip(2) + 1).centres
    operator.learn_from(operator.match(map.flip(2) + 1))
    assert_close(operator.centres.means, (0.75 * first + 0.25 * second).detach())


@pytest.mark.parametrize(("length", "num_blocks"), [(1, 5), (3, 8), (10, 4), (12, 4)])
def test_centres_start_from_the_means_of_equal_blocks(length, num_blocks):
    sequence = tokens(2, length)
    there_and_back = list(range(length)) + list(range(length))[::-1]
    places = (there_and_back * num_blocks)[: length + num_blocks - length % num_blocks]
    size = len(places) // num_blocks
    expected = [sequence[:, places[k * size : (k + 1) * size]].mean((0, 1)) for k in range(num_blocks)]
    assert_close(block_means(sequence, num_blocks, together=False), torch.stack(expected))


@pytest.mark.parametrize("window_size", [3, 8, 16, 28])
def test_windows_cover_every_position_with_shares_that_sum_to_one(window_size):
    for length in range(1, 90):
        layout = OverlappingWindows(length, 3, window_size)
        assert torch.equal(layout.positions.unique(), torch.arange(3 * length))
        torch.testing.assert_close(layout.coverage(), torch.ones(length, 3, dtype=torch.float64))


def test_as_published_a_row_in_three_windows_keeps_three_quarters_and_small_sides_lose_rows():
    """On 15 rows, windows of 8 begin at 0, 6 and 7."""
    rows = OverlappingWindows(15, 8, 8, average="published").coverage()[:, 0].tolist()
    assert rows == [1.0] * 7 + [0.75] + [1.0] * 7
    assert OverlappingWindows(6, 8, 8, average="published").coverage()[:, 0].tolist() == [0, 0, 0, 0, 1, 1]
    assert OverlappingWindows(4, 8, 8, average="published").coverage()[:, 0].tolist() == [1] * 4
    block = OverlappingWindowAttention(8, OverlappingWindow(8, window_size=8, average="published")).double()
    kept = block(features(1, 6, 8))[0]
    assert (kept[:, :, :4] == 0).all()


def test_a_block_that_reuses_an_aggregation_needs_one_of_its_size():
    block, reusing = TokenAggregationAttention(8, build("tokens")).double(), TokenAggregationAttention(8).double()
    _, matched = block(features(1, 6, 4))
    assert reusing(features(1, 6, 4), matched)[1] is matched
    with pytest.raises(ShapeError, match="expected an affinity of a 4x6 map, got one of 6x4"):
        reusing(features(1, 4, 6), matched)
    with pytest.raises(ShapeError, match="owns no operator"):
        reusing(features(1, 4, 6))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenAggregation(8, heads=3), "heads that divide 8 channels, got 3"),
        (lambda: TokenAggregation(8, chunk_size=0), "above zero, got 64, 0, 5"),
        (lambda: OverlappingWindow(8, window_size=2), "more than 2 positions along a side, got 2"),
    ],
)
def test_what_does_not_fit_is_said(make, message):
    with pytest.raises(ShapeError, match=message):
        make()
