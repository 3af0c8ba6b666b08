"""The loss that teaches a match what looks alike."""

import numpy as np
import pytest
import torch

from nlsr.attention import Affinity, build_operator
from nlsr.errors import RecipeError
from nlsr.train.likeness import QUERIES, TEMPERATURE, likeness


class Given(Affinity):
    """An affinity whose whole matrix is given."""

    def __init__(self, matrix, size):
        super().__init__(matrix.shape[1], size=size)
        self.matrix = matrix

    def rows(self, queries):
        return self.matrix[:, queries]

    def aggregate(self, values):
        return self.matrix @ values


def scene(batch=1, side=9, scale=4):
    """High-res images in which stripes of two kinds alternate."""
    rng = np.random.default_rng(0)
    tile = rng.random((3, scale * 3, scale * 3))
    return torch.from_numpy(np.tile(tile, (batch, 1, side // 3, side // 3))).float()


def truth(image, scale=4, side=12):
    """The softmax of minus the patches' mean squared difference, far positions only, by NumPy alone."""
    image = image.double().numpy()
    height, width = (length // scale for length in image.shape[1:])
    before = (side - scale) // 2
    padded = np.pad(image, ((0, 0), (before, side), (before, side)), mode="reflect")
    tokens = [
        padded[:, scale * y : scale * y + side, scale * x : scale * x + side].ravel()
        for y in range(height)
        for x in range(width)
    ]
    matrix = np.zeros((height * width, height * width))
    for one, patch in enumerate(tokens):
        for other, key in enumerate(tokens):
            far = max(abs(one // width - other // width), abs(one % width - other % width)) > 3
            matrix[one, other] = far * np.exp(-np.mean((patch - key) ** 2) / TEMPERATURE)
    return torch.from_numpy(matrix / matrix.sum(1, keepdims=True)).float()[None]


def entropy(rows):
    return -(rows * rows.clamp(min=1e-30).log()).sum(-1)


def test_it_is_least_for_the_truth():
    high_res, size = scene(), (9, 9)
    best = truth(high_res[0]).clamp(min=1e-12)
    queries = torch.linspace(0, 80, QUERIES).round().long().unique()
    least = likeness(Given(best, size), high_res, 4)
    torch.testing.assert_close(least, entropy(best[:, queries]).mean(), rtol=1e-3, atol=1e-4)
    uniform = likeness(Given(torch.ones(1, 81, 81), size), high_res, 4)
    assert uniform > least + 0.1


def test_near_positions_do_not_count():
    high_res, size = scene(), (9, 9)
    near = torch.ones(1, 81, 81)
    near[:, torch.arange(81), torch.arange(81)] = 1e6
    torch.testing.assert_close(
        likeness(Given(near, size), high_res, 4), likeness(Given(torch.ones(1, 81, 81), size), high_res, 4)
    )


def test_joined_patches_lie_below_each_other():
    """What two equal patches teach does not depend on which of them a key lies in."""
    high_res = scene(batch=2)
    first = truth(high_res[0])
    both = torch.zeros(1, 162, 162)
    both[:, :81, :81], both[:, 81:, 81:] = first, first
    apart = torch.cat([first, first])
    torch.testing.assert_close(
        likeness(Given(both, (18, 9)), high_res, 4),
        likeness(Given(apart, (9, 9)), high_res, 4),
        rtol=0.02,
        atol=0.02,
    )


@pytest.mark.parametrize(
    ("name", "settings"), [("kmeans", {"num_clusters": 4, "chunk_size": 16}), ("nearest", {}), ("dense", {})]
)
def test_an_operator_learns_what_looks_alike(name, settings):
    torch.manual_seed(0)
    high_res = scene(side=12)
    operator = build_operator(name, 8, settings)
    features = torch.randn(1, 8, 12, 12)
    optimizer = torch.optim.Adam(operator.parameters(), lr=0.02)
    losses = []
    for _ in range(20):
        affinity = operator.match(features)
        loss = likeness(affinity, high_res, 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        operator.learn_from(affinity)
        losses.append(loss.item())
    assert min(losses[-3:]) < losses[0] - 0.01


def test_keys_that_are_no_positions_are_refused():
    affinity = build_operator("leverage", 8, {"num_keys": 4}).match(torch.randn(1, 8, 9, 9))
    affinity.num_keys = 4
    with pytest.raises(RecipeError, match="the keys of this attention are not single positions"):
        likeness(affinity, scene(), 4)
