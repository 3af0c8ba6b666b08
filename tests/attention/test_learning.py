"""Clusters in a training loop of one's own: they learn where they are told to, and say so where they are not."""

import copy
import warnings

import pytest
import torch
from torch import nn

from nlsr.attention import LearnableSparsePattern, NonLocalSparse, ResidualAttention, SharedAttention, learn
from nlsr.errors import NlsrWarning


def network():
    torch.manual_seed(0)
    pattern = LearnableSparsePattern(8, reduction=2, num_clusters=4, chunk_size=16)
    return nn.Sequential(ResidualAttention(8, pattern), ResidualAttention(8, NonLocalSparse(8)), nn.Conv2d(8, 8, 1))


def features(seed=0):
    return torch.randn(2, 8, 9, 7, generator=torch.Generator().manual_seed(seed))


def train(network, steps, after=lambda network: None):
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for step in range(steps):
        optimizer.zero_grad()
        network(features(step)).square().mean().backward()
        optimizer.step()
        after(network)


def test_one_line_after_each_step_makes_clusters_learn():
    model = network()
    kmeans = model[0].attention.operator.kmeans
    train(model, 1, after=learn)
    assert kmeans.initialised
    before = kmeans.centroids.clone()
    train(model, 1, after=learn)
    assert not torch.equal(kmeans.centroids, before)


def test_a_block_learns_what_its_operator_learns_from_the_affinity():
    block = network()[0]
    same = copy.deepcopy(block)
    block(features())
    block.learn(torch.Generator().manual_seed(5))
    operator = same.attention.operator
    operator.learn_from(operator.match(features()), torch.Generator().manual_seed(5))
    assert torch.equal(block.attention.operator.kmeans.centroids, operator.kmeans.centroids)


def test_a_block_learns_once_from_a_pass_and_never_from_evaluation():
    block = network()[0]
    block.eval()(features())
    block.learn()
    kmeans = block.attention.operator.kmeans
    assert not kmeans.initialised
    block.train()(features())
    block.learn()
    before = kmeans.centroids.clone()
    block.learn()
    assert torch.equal(kmeans.centroids, before)


def test_clusters_that_do_not_learn_say_so_once():
    with pytest.warns(
        NlsrWarning, match="have not learned in a step of training: positions are sorted by chance"
    ) as told:
        train(network(), 4)
    assert len(told) == 1


def test_clusters_that_learn_say_nothing_nor_do_those_that_wait_for_the_first_step():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(network(), 3, after=learn)
        model = network()
        for part in range(3):  # of one batch
            model(features(part)).square().mean().backward()
        model.eval()(features())


@pytest.mark.parametrize(
    ("module", "shown"),
    [
        (LearnableSparsePattern(8, num_clusters=5), ["chunk_size=384", "(kmeans): KMeans(5, 8, rounds=1, decay=0.999"]),
        (NonLocalSparse(8, rounds=2), ["chunk_size=144, rounds=2, seed=0"]),
        (SharedAttention(8, residual_scale=0.1), ["residual_scale=0.1"]),
    ],
)
def test_repr_shows_sizes(module, shown):
    assert all(part in repr(module) for part in shown)
