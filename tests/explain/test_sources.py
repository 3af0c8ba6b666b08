"""What a pixel draws on: against rows of the whole matrix, laid over the image one entry at a time."""

import pytest
import torch
from tests.tolerances import assert_close
from torch import nn

from nlsr.attention import OPERATORS, SharedAttention
from nlsr.attention.leverage import Leverage
from nlsr.errors import UsageError
from nlsr.explain import sources
from nlsr.explain.origins import strongest
from nlsr.networks import (
    ASID,
    CSNLN,
    PAN,
    ASIDConfig,
    CSNLNConfig,
    LCoAN,
    LCoANConfig,
    Network,
    PANConfig,
)

CHUNKED = {"kmeans": "k-means clusters", "hash": "hash buckets", "superbit": "super-bit buckets"}


def noise(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def lcoan(operator, **sizes):
    config = dict(channels=8, num_groups=2, num_blocks=1, reduction=2, num_clusters=6, chunk_size=20, num_keys=9)
    return LCoAN(LCoANConfig(2, operator=operator, **(config | sizes))).double().eval()


@pytest.mark.parametrize("at", [(0, 0), (18, 16), (7, 11)])
@pytest.mark.parametrize("operator", [name for name, kind in OPERATORS.items() if kind(8).scale == 1])
def test_the_heat_is_the_pixels_row(operator, at):
    network, image = lcoan(operator, rounds=2), noise(1, 3, 17, 19)
    with torch.no_grad():
        row = network.trace(image).affinities[0].dense()[0, at[1] * 19 + at[0]]
    drawn = sources(network, image, at)
    assert_close(drawn.heat, row.view(17, 19))
    assert (drawn.operator, drawn.index, drawn.num_affinities) == (operator, 0, 1)


def test_any_affinity_can_be_asked_for():
    network, image = lcoan("hash", share=False), noise(1, 3, 16, 16)
    with torch.no_grad():
        rows = [affinity.dense()[0, 5] for affinity in network.trace(image).affinities]
    for index, row in enumerate(rows):
        assert_close(sources(network, image, (5, 0), index=index).heat.flatten(), row)
    with pytest.raises(UsageError, match="affinity 2: this network has affinities 0 to 1"):
        sources(network, image, (5, 0), index=2)
    with pytest.raises(UsageError, match="affinity -1: this network has one affinity, 0"):
        sources(lcoan("hash"), image, (5, 0), index=-1)


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("operator", CHUNKED)
def test_of_sorted_positions_the_reach_is_the_support_of_the_row_and_groups_are_codes(operator, rounds):
    network, image, at = lcoan(operator, rounds=rounds), noise(1, 3, 17, 19), (7, 11)
    with torch.no_grad():
        affinity = network.trace(image).affinities[0]
    drawn = sources(network, image, at)
    assert torch.equal(drawn.reach, affinity.dense()[0, 11 * 19 + 7].view(17, 19) > 0)
    assert torch.equal(drawn.groups, affinity.codes.view(rounds, 17, 19))
    assert drawn.groups_are == CHUNKED[operator]
    assert drawn.reach_is == "in its chunk of sorted positions or beside it"


def test_the_reach_counts_positions_whose_weight_rounds_to_zero():
    network, image = lcoan("kmeans"), noise(1, 3, 17, 19)
    before = sources(network, image, (7, 11)).reach
    nn.init.constant_(network.groups[0].attention.operator.embed.bias, 0.0)
    network.groups[0].attention.operator.embed.weight.data *= 1e5
    drawn = sources(network, image, (7, 11))
    assert (drawn.heat > 0).sum() < drawn.reach.sum() == before.sum()


def test_of_a_key_set_the_reach_is_the_set():
    network, image = lcoan("leverage"), noise(1, 3, 17, 19)
    with torch.no_grad():
        chosen = network.trace(image).affinities[0].key_set.indices[0]
    drawn = sources(network, image, (7, 11))
    assert drawn.reach.flatten().nonzero().flatten().tolist() == chosen.tolist()
    assert (drawn.groups, drawn.reach_is) == (None, "in the key set")


def test_of_several_heads_the_heat_is_the_mean_and_the_reach_is_that_of_any():
    class Headed(Network):
        def __init__(self):
            super().__init__(PANConfig(1))
            self.attention = SharedAttention(3, Leverage(3, reduction=1, heads=3, num_keys=5))

        def _upscale(self, low_res, *, draws, keep, collect):
            refined, affinity = self.attention(low_res, keep=keep)
            collect(affinity)
            return refined

        def bytes_per_pixel(self):
            return 1

        def operators(self):
            return [self.attention.operator]

    network, image = Headed().double(), noise(1, 3, 16, 16)
    with torch.no_grad():
        rows = network.trace(image).affinities[0].rows(torch.tensor([33]))
    drawn = sources(network, image, (1, 2))
    assert_close(drawn.heat.flatten(), rows[:, 0].mean(0))
    assert torch.equal(drawn.reach.flatten(), (rows[:, 0] > 0).any(0))


@pytest.mark.parametrize("index", [0, 3])
def test_windows_and_grids_belong_to_the_padded_image(index):
    network, image, (x, y) = ASID(ASIDConfig(2, channels=8)).double().eval(), noise(1, 3, 19, 30), (29, 17)
    with torch.no_grad():
        row = network.trace(image).affinities[index].dense()[0, y * 32 + x].view(24, 32)[:19, :30]
    drawn = sources(network, image, (x, y), index=index)
    assert_close(drawn.heat, row)
    rows, columns = torch.arange(19)[:, None], torch.arange(30)
    if index == 0:
        together = (rows // 8 == y // 8) & (columns // 8 == x // 8)
        assert (drawn.reach_is, drawn.groups_are) == ("in its window", "windows")
    else:  # grids take every third row and every fourth column
        together = (rows % 3 == y % 3) & (columns % 4 == x % 4)
        assert (drawn.reach_is, drawn.groups_are) == ("in its grid", "grids")
    assert torch.equal(drawn.reach, together)
    assert torch.equal(drawn.groups[0] == drawn.groups[0, y, x], together)


@pytest.mark.parametrize(
    ("scale", "index", "side", "factor", "cell"),
    [
        (2, 0, (18, 20), 1, 1),
        (2, 1, (18, 20), 1, 2),
        (3, 1, (18, 21), 1, 3),
        (4, 2, (36, 40), 2, 1),
        (4, 3, (36, 40), 2, 2),
    ],
)
def test_padded_enlarged_and_cross_scale_rows_lie_where_their_keys_are_made_of(scale, index, side, factor, cell):
    image, (x, y) = noise(1, 3, 17, 19), (18, 9)
    network = CSNLN(CSNLNConfig(scale, channels=4, recurrences=1)).double().eval()
    high, wide = side
    with torch.no_grad():
        affinity = network.trace(image).affinities[index]
        own = [(factor * y + i) * wide + factor * x + j for i in range(factor) for j in range(factor)]
        row = affinity.rows(torch.tensor(own))[0].mean(0)
    assert (affinity.num_queries, affinity.num_keys) == (high * wide, high // cell * (wide // cell))
    expected = torch.zeros(17, 19, dtype=torch.float64)
    for v in range(17 * factor):
        for u in range(19 * factor):
            key = v // cell * (wide // cell) + u // cell
            expected[v // factor, u // factor] += row[key] / cell**2
    drawn = sources(network, image, (x, y), index=index)
    assert_close(drawn.heat, expected)
    assert (drawn.reach, drawn.groups) == (None, None)


def test_the_strongest_come_in_falling_order_and_equal_ones_in_row_major_order():
    heat = torch.tensor([[0.0, 2.0, 0.0], [1.0, 2.0, 3.0]])
    assert strongest(heat, 3).tolist() == [[2, 1], [1, 0], [1, 1]]
    assert len(strongest(heat, 9)) == 4


def test_networks_without_affinity_have_no_sources():
    assert sources(PAN(PANConfig(2, channels=8, num_blocks=1)), noise(1, 3, 16, 16), (3, 3)) is None
    assert sources(lcoan("none"), noise(1, 3, 16, 16), (3, 3)) is None
