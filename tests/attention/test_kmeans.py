"""Clusters: they learn in training only, stay alive, and agree between processes."""

import math
import os

import pytest
import torch
from torch import distributed
from torch.nn import functional as F

from nlsr.attention import KMeans, LearnableSparsePattern
from nlsr.attention.learnable_collaborative import (
    IDLE_STEPS,
    PRICED_ON,
    SOFTNESS,
    assign,
    directions,
    prices,
    spread_indices,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def clouds(batch=2, length=400, width=6, groups=5, seed=0):
    """Positions scattered closely around a few directions that turn slowly with the seed."""
    draw = generator(seed)
    centres = F.normalize(torch.randn(groups, width, generator=generator(99)), dim=-1)
    which = torch.randint(groups, (batch, length), generator=draw)
    return centres[which] * 3 + 0.1 * torch.randn(batch, length, width, generator=draw)


def started(centroids, **options):
    """A clustering that has begun, with these centroids."""
    kmeans = KMeans(len(centroids), len(centroids[0]), **options)
    kmeans.centroids.copy_(F.normalize(torch.tensor([centroids]), dim=-1))
    kmeans.initialised.fill_(True)
    return kmeans


def learn(kmeans, data, seed=0):
    kmeans.learn(data, kmeans(data), generator=generator(seed))


def mean_cosine(kmeans, embedding):
    samples = directions(embedding).flatten(0, 1)
    return (samples @ kmeans.centroids[0].T).amax(-1).mean().item()


def entropy(codes, num_clusters):
    share = torch.bincount(codes.flatten(), minlength=num_clusters) / codes.numel()
    return -(share[share > 0] * share[share > 0].log()).sum().item()


def test_matching_never_changes_a_buffer_in_training_or_evaluation():
    operator = LearnableSparsePattern(8, num_clusters=4, chunk_size=8)
    before = {name: buffer.clone() for name, buffer in operator.named_buffers()}
    for mode in (True, False):
        operator.train(mode).match(torch.randn(1, 8, 6, 6))
    for name, buffer in operator.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_the_first_batch_starts_centroids_near_their_members():
    kmeans = KMeans(5, 6)
    data = clouds()
    kmeans.learn(data, kmeans(data), generator=generator())
    assert kmeans.initialised
    assert mean_cosine(kmeans, data) > 0.99
    assert entropy(kmeans(data), 5) > 0.95 * math.log(5)


def test_frozen_centroids_start_as_published_from_raw_vectors_alike_in_all_rounds():
    kmeans = KMeans(5, 6, rounds=2, learning="frozen")
    samples = clouds().flatten(0, 1) * torch.rand(800, 1, generator=generator(5)) ** 3
    learn(kmeans, samples.unflatten(0, (2, 400)))
    expected = samples[torch.randperm(800, generator=generator())[:5]]
    for _ in range(10):
        codes = (samples @ expected.T).argmax(1)
        sums = [samples[codes == code].sum(0) for code in range(5)]
        expected = torch.stack(
            [F.normalize(new, dim=0) if new.any() else old for new, old in zip(sums, expected, strict=True)]
        )
    for centroids in kmeans.centroids:
        torch.testing.assert_close(centroids, expected)


def test_centroids_of_a_large_batch_start_from_positions_everywhere_in_it(monkeypatch):
    monkeypatch.setattr("nlsr.attention.learnable_collaborative.MAX_START_SAMPLES", 100)
    kmeans, data = KMeans(2, 2), torch.tensor([[[1.0, 0.0]] * 300 + [[0.0, 1.0]] * 300])
    learn(kmeans, data)
    assert sorted(kmeans.centroids[0].tolist()) == [[0.0, 1.0], [1.0, 0.0]]


def test_goodness_is_the_mean_cosine_and_the_entropy_of_the_sizes():
    """Whatever the length of the centroids, which published ones have."""
    kmeans = started([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    kmeans.centroids.mul_(5)
    data = torch.tensor([[[2.0, 0.0], [4.0, 3.0], [0.0, 7.0], [0.0, 0.1]]])
    cosine, entropy = kmeans.goodness(data, kmeans(data))
    assert cosine == pytest.approx((1 + 0.8 + 1 + 1) / 4)
    assert entropy == pytest.approx(math.log(2) / math.log(3))


def test_rounds_start_from_different_positions():
    kmeans = KMeans(20, 6, rounds=2)
    data = clouds()
    kmeans.learn(data, kmeans(data), generator=generator())
    assert not torch.allclose(kmeans.centroids[0], kmeans.centroids[1])


def test_centroids_follow_features_that_move_and_frozen_ones_do_not():
    scores = {}
    for learning in ("moving-average", "frozen"):
        kmeans = KMeans(5, 6, decay=0.9, learning=learning)
        turn = torch.matrix_exp(0.01 * (torch.ones(6, 6).triu(1) - torch.ones(6, 6).tril(-1)))
        for step in range(40):
            data = clouds(seed=step) @ torch.linalg.matrix_power(turn, step)
            kmeans.learn(data, kmeans(data), generator=generator(step))
        scores[learning] = mean_cosine(kmeans, data)
    assert scores["moving-average"] > 0.98
    assert scores["moving-average"] > scores["frozen"] + 0.02


def test_one_learning_step_is_the_normalised_moving_average_of_member_directions():
    """Directions are averaged: a long vector counts as much as a short one."""
    kmeans = started([[1.0, 0.1], [0.1, 1.0], [-1.0, -0.1]], decay=0.75)
    data = torch.tensor([[[2.0, 0.0], [0.0, 5.0], [0.6, 0.8], [30.0, 40.0], [-1.0, 0.0]]])
    old = kmeans.centroids.clone()
    learn(kmeans, data)
    means = F.normalize(torch.tensor([[1.0, 0.0], [1.2, 2.6], [-1.0, 0.0]]), dim=-1)
    torch.testing.assert_close(kmeans.centroids[0], F.normalize(0.75 * old[0] + 0.25 * means, dim=-1))


def test_clusters_that_keep_members_are_never_seeded_again():
    """Nor are those that had none in fewer batches running than make them dead."""
    kmeans = started(torch.eye(3).tolist(), decay=1.0)
    all_but_last, all_of_them = torch.eye(3)[None, :2].repeat(1, 9, 1), torch.eye(3)[None]
    for _ in range(3):
        for _ in range(IDLE_STEPS - 1):
            learn(kmeans, all_but_last)
        learn(kmeans, all_of_them)
    torch.testing.assert_close(kmeans.centroids[0], torch.eye(3))


def test_a_dead_cluster_is_seeded_where_no_living_one_is():
    """In the batch after which it is dead, at once, and it then lives as long without a member as any other."""
    kmeans = started([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, -1.0, -1.0]], decay=1.0)
    dead, far = kmeans.centroids[0, 2].clone(), torch.tensor([1.0, 0.0, 3.0]) / 10**0.5
    near = torch.eye(3)[:2].repeat(500, 1)
    data = torch.cat((near, 7 * far[None], near))[None]
    for step in range(IDLE_STEPS):
        torch.testing.assert_close(kmeans.centroids[0, 2], dead)
        learn(kmeans, data, seed=step)
    torch.testing.assert_close(kmeans.centroids[0], torch.stack((torch.eye(3)[0], torch.eye(3)[1], far)))
    elsewhere = F.normalize(torch.tensor([[1.0, 1.0, 0.0]]), dim=-1).expand(1, 9, 3)
    for step in range(IDLE_STEPS - 1):
        learn(kmeans, elsewhere, seed=step)
    torch.testing.assert_close(kmeans.centroids[0, 2], far)


def test_a_cluster_without_members_is_seeded_again():
    kmeans = KMeans(5, 6, decay=0.9)
    data = clouds()
    kmeans.learn(data, kmeans(data), generator=generator())
    kmeans.centroids[0, 0] = -data.flatten(0, 1).mean(0)  # a place where nothing is
    for step in range(IDLE_STEPS + 1):
        kmeans.learn(data, kmeans(data), generator=generator(step))
    counts = torch.bincount(kmeans(data).flatten(), minlength=5)
    assert (counts > 0).all()
    assert torch.allclose(kmeans.centroids.norm(dim=-1), torch.ones(1, 5))


def test_equal_calls_learn_equal_centroids():
    states = []
    for _ in range(2):
        kmeans = KMeans(7, 6, rounds=2)
        for step in range(3):
            data = clouds(seed=step)
            kmeans.learn(data, kmeans(data), generator=generator(step))
        states.append(kmeans.centroids.clone())
    assert torch.equal(*states)


def test_a_tie_goes_to_the_lowest_cluster():
    centroids = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    assert assign(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), centroids).tolist() == [1, 0]


def test_a_graph_that_is_recorded_assigns_as_the_network_does_ties_too(monkeypatch):
    kmeans = started([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]], balanced=True)
    embedding = clouds(batch=2, length=40)[..., :3]
    expected = kmeans(embedding)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.equal(kmeans(embedding), expected)
    assert set(expected.unique().tolist()) == {0, 1}


def mostly_sky(length=2000, seed=0):
    """Positions of which nine in ten look nearly alike, and centroids all around."""
    draw = generator(seed)
    noise = torch.randn(2, length, 6, generator=draw)
    sky = torch.rand(2, length, 1, generator=draw) < 0.9
    embedding = torch.where(sky, torch.tensor([1.0, 1, 0, 0, 0, 0]) + 0.2 * noise, noise)
    return embedding, F.normalize(torch.randn(16, 6, generator=draw), dim=-1)


def test_balanced_clusters_are_far_more_even():
    embedding, centroids = mostly_sky()
    largest = {}
    for balanced in (False, True):
        codes = started(centroids.tolist(), balanced=balanced)(embedding)
        largest[balanced] = max(torch.bincount(image, minlength=16).max().item() for image in codes[:, 0])
    assert largest[False] > 0.5 * 2000
    assert largest[True] < 0.25 * 2000


def test_prices_are_those_at_which_every_cluster_is_wanted_equally(monkeypatch):
    monkeypatch.setattr("nlsr.attention.learnable_collaborative.PRICE_STEPS", 2000)
    embedding, centroids = mostly_sky(PRICED_ON)
    samples = directions(embedding).double()
    costs = prices(samples, centroids.double())
    wanted = F.softmax((samples @ centroids.double().T - costs[:, None]) / SOFTNESS, dim=-1).mean(1)
    assert torch.allclose(wanted, torch.full_like(wanted, 1 / 16), rtol=1e-6)


def test_each_image_has_prices_of_its_own():
    embedding, centroids = mostly_sky()
    embedding[1] = clouds(1, 2000)[0]
    kmeans = started(centroids.tolist(), balanced=True)
    assert torch.equal(kmeans(embedding), torch.cat([kmeans(image[None]) for image in embedding]))


@pytest.mark.parametrize("length", [1, 3, PRICED_ON - 1, PRICED_ON + 1])
def test_clusters_of_maps_of_every_size_can_be_balanced(length):
    kmeans = started(torch.randn(16, 6, generator=generator()).tolist(), balanced=True)
    codes = kmeans(torch.cat((clouds(1, length), torch.zeros(1, length, 6))))
    assert codes.shape == (2, 1, length)
    assert codes.min() >= 0
    assert codes.max() < 16


def test_spread_indices_prefer_far_samples():
    samples = torch.tensor([[1.0, 0.0]] * 50 + [[0.0, 1.0]])
    chosen = spread_indices(samples, 2, generator())
    assert set(samples[chosen, 1].tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("length", [1, 3])
def test_fewer_positions_than_clusters_is_no_problem(length):
    for learning in ("moving-average", "frozen"):
        kmeans = KMeans(8, 6, learning=learning)
        data = clouds(batch=1, length=length)
        for step in range(3):
            kmeans.learn(data, kmeans(data), generator=generator(step))
        assert kmeans.centroids.isfinite().all()


def test_two_processes_with_half_the_batch_each_learn_the_centroids_of_one(tmp_path, ranks):
    """Also where clusters have members in one process alone, and what a dead one is seeded with is in the other."""

    def work():
        distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=rank(), world_size=2)
        torch.save([learned(rank(), 2), seeded_again(rank(), 2)], tmp_path / f"{rank()}.pt")
        distributed.destroy_process_group()

    def rank():
        return int(os.environ["RANK"])

    assert ranks(work) == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for one, other, alone in zip(first, second, (learned(0, 1), seeded_again(0, 1)), strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, alone, rtol=0, atol=1e-12)


def learned(rank, ranks):
    kmeans = KMeans(6, 6, rounds=2, decay=0.8).double()
    for step in range(3):
        learn(kmeans, share(clouds(batch=4, length=50, seed=step).double(), rank, ranks), step)
    return kmeans.centroids.clone()


def seeded_again(rank, ranks):
    """Four centroids: one with members everywhere, two with members in one process, one dead."""
    kmeans = started([*torch.eye(4)[:3].tolist(), [-1.0] * 4], decay=0.9).double()
    half = torch.eye(4).double()[[0, 1]].repeat(20, 1)
    other = torch.cat((torch.eye(4).double()[[0, 2]].repeat(20, 1)[1:], torch.tensor([[0.0, 0.0, 0.1, 1.0]])))
    for step in range(IDLE_STEPS + 1):
        learn(kmeans, share(torch.stack((half, other)), rank, ranks), step)
    assert kmeans.centroids[0, 3, 3] > 0.9
    return kmeans.centroids.clone()


def share(batch, rank, ranks):
    return batch.chunk(ranks)[rank]
