"""The search for the keys most like each position, against comparing all pairs; and products through an index."""

from pathlib import Path

import pytest
import torch
from tests.tolerances import assert_close
from torch.nn import functional as F

from nlsr.attention import Nearest
from nlsr.attention.few_keys import FewKeys, dots
from nlsr.attention.nearest import nearest
from nlsr.errors import ShapeError
from nlsr.images import read

CAT = Path(__file__).parents[2] / "examples" / "cat.png"


def unit_vectors(batch, length, width=6):
    return F.normalize(torch.randn(batch, length, width, generator=torch.Generator().manual_seed(3)), dim=-1)


def picture_features(side, width=16):
    """What 3x3 pixels of a real picture look like, in random directions, as unit vectors (1, side * side, width)."""
    image = read(CAT).pixels[:, :, 100 : 102 + side, 20 : 22 + side]
    patches = F.unfold(image, 3)
    directions = torch.randn(width, patches.shape[1], generator=torch.Generator().manual_seed(0))
    features = (directions @ (patches - patches.mean(2, keepdim=True))).transpose(1, 2)
    return F.normalize(features, dim=-1)


def most_alike(keys, queries, count):
    return (keys[:, queries] @ keys.transpose(1, 2)).topk(count, dim=-1).indices


def test_propagation_finds_nine_in_ten_of_the_exact_nearest_in_a_picture():
    keys = picture_features(100)
    queries = torch.arange(0, keys.shape[1], 29)
    exact = most_alike(keys, queries, 16)

    def recall(**settings):
        found = nearest(keys, 16, width=100, **settings)[:, queries].long()
        return (exact[..., None] == found[..., None, :]).any(-1).double().mean()

    assert recall() >= 0.9
    assert recall(sweeps=1) < 0.8


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (5, 7), (16, 16), (1, 300), (300, 1), (33, 40)])
@pytest.mark.parametrize("count", [1, 5, 16])
def test_a_row_holds_as_many_different_positions_as_there_can_be_the_most_alike_first(height, width, count):
    keys = unit_vectors(2, height * width)
    index = nearest(keys, count, width=width)
    assert index.shape == (2, height * width, min(count, height * width))
    ranked = index.sort(dim=-1).values
    assert (ranked[..., 1:] > ranked[..., :-1]).all()
    assert ranked.min() >= 0
    assert ranked.max() < height * width
    for image, rows in zip(keys, index.long(), strict=True):
        scores = (image[:, None] * image[rows]).sum(-1)
        assert (scores[:, 1:] <= scores[:, :-1] + 1e-6).all()


@pytest.mark.parametrize("length", [1, 16, 256])
def test_small_maps_are_searched_exactly(length):
    keys = unit_vectors(3, length)
    count = min(length, 16)
    assert torch.equal(nearest(keys, 16, width=16).long(), most_alike(keys, torch.arange(length), count))


def test_of_equally_alike_positions_the_first_is_taken():
    keys = torch.ones(1, 100, 4) / 2
    assert torch.equal(nearest(keys, 5, width=10), torch.arange(5, dtype=torch.int32).expand(1, 100, 5))


@pytest.mark.parametrize("length", [400, 2000])
def test_a_map_of_one_colour_still_gives_every_position_different_keys(length):
    ranked = nearest(torch.ones(1, length, 4) / 2, 16, width=20).sort(dim=-1).values
    assert (ranked[..., 1:] > ranked[..., :-1]).all()


def test_matching_is_in_float32_whatever_the_precision_around_it():
    keys = picture_features(24)
    with torch.autocast("cpu", torch.bfloat16):
        surrounded = nearest(keys, 16, width=24)
    assert torch.equal(surrounded, nearest(keys, 16, width=24))
    operator = Nearest(8, num_nearest=4)
    affinity = operator.match(torch.randn(1, 8, 20, 20))
    values = torch.randn(1, 400, 3)
    with torch.autocast("cpu", torch.bfloat16):
        surrounded = affinity.aggregate(values)
    assert_close(surrounded, affinity.aggregate(values))


def test_a_query_reaches_its_keys_alone():
    affinity = Nearest(8, num_nearest=4).match(torch.randn(2, 8, 20, 15))
    reached = affinity.reach(torch.tensor([7, 205]))
    assert torch.equal(reached, (affinity.rows(torch.tensor([7, 205])) > 0).any(0).any(0))
    assert 4 <= reached.sum() <= 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dot_products_through_an_index_are_those_of_the_rows_it_names(dtype):
    query, key = torch.randn(50, 7).to(dtype), torch.randn(30, 7).to(dtype)
    index = torch.randint(30, (50, 4), dtype=torch.int32)
    assert_close(dots(query, key, index), (query[:, None] * key[index.long()]).sum(-1))


def test_elsewhere_than_on_a_processor_a_dot_product_does_not_depend_on_what_is_asked_with_it(monkeypatch):
    monkeypatch.setattr("nlsr.attention.few_keys._on_cpu", lambda tensor: False)
    query, key = torch.randn(40, 16), torch.randn(30, 16)
    index = torch.randint(30, (40, 80), dtype=torch.int32)
    together = dots(query, key, index)
    for queries, keys in ((1, 33), (1, 1), (3, 17), (40, 5)):
        assert torch.equal(dots(query[:queries], key, index[:queries, :keys]), together[:queries, :keys])


def test_products_through_an_index_have_the_gradients_of_their_definition():
    index = nearest(unit_vectors(2, 12), 5, width=4)
    keys = FewKeys(index, 12)
    tensors = [torch.randn(2, 12, width, dtype=torch.float64, requires_grad=True) for width in (3, 3, 5, 4)]
    query, key, weights, values = tensors
    assert torch.autograd.gradcheck(keys.scores, (query, key))
    assert torch.autograd.gradcheck(keys.aggregate, (weights, values))


def test_keys_that_no_query_draws_on_get_no_gradient():
    keys = FewKeys(torch.tensor([[[4, 2], [2, 4], [4, 0]]], dtype=torch.int32), 6)
    values = torch.randn(1, 6, 3, requires_grad=True)
    keys.aggregate(torch.ones(1, 3, 2), values).sum().backward()
    assert torch.equal(values.grad[0, :, 0], torch.tensor([1.0, 0.0, 2.0, 0.0, 3.0, 0.0]))


@pytest.mark.parametrize("settings", [{"num_nearest": 0}, {"sweeps": 0}])
def test_a_position_without_keys_is_refused(settings):
    with pytest.raises(ShapeError, match="at least 1 key and 1 sweep"):
        Nearest(8, **settings)
