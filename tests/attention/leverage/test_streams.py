"""Streams and processes choose the set that one call on all keys chooses."""

import os
import pickle

import pytest
import torch
from torch import distributed

from nlsr.attention.leverage import (
    KeyStream,
    distributed_leverage_scores,
    distributed_threshold,
    distributed_top_r,
    leverage_scores,
    threshold,
    top_r,
    two_pass_set,
)
from nlsr.attention.leverage.gram import BLOCK
from nlsr.errors import NlsrError, ShapeError


def keys(count, width=5, seed=0):
    """The first keys span two dimensions only; a few later ones are long, some are repeated, one is zero."""
    key = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    key[: count // 5, 2:] = 0
    key[count // 2 :: 7] *= 10
    key[count // 3 : count // 3 + 4] = key[count // 4 : count // 4 + 4].clone()
    key[count // 6] = 0
    return key


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 7, 50, 200])
def test_a_stream_ends_with_the_set_of_all_keys(size, dtype):
    key, eps = keys(120).to(dtype), 0.06
    expected = threshold(leverage_scores(key), eps).indices
    stream = KeyStream(5, eps)
    seen = 0
    for chunk in key.split(size):
        stream.update(chunk)
        seen += len(chunk)
        so_far = threshold(leverage_scores(key[:seen]), eps).indices
        assert torch.equal(stream.indices, so_far)
        assert len(stream.indices) <= 5 / eps
    assert 0 < len(expected) < 120
    assert torch.equal(stream.keys, key[expected])
    torch.testing.assert_close(stream.scores, leverage_scores(key)[expected], rtol=1e-9, atol=0)
    assert torch.equal(two_pass_set(lambda: key.split(size), eps), expected)


def test_a_stream_that_is_longer_than_a_block_has_the_scores_of_one_call():
    key, eps = keys(3 * BLOCK + 17, 3), 0.0008
    stream = KeyStream(3, eps)
    for chunk in key.split(1000):
        stream.update(chunk)
    scores = leverage_scores(key)
    assert torch.equal(stream.indices, threshold(scores, eps).indices)
    torch.testing.assert_close(stream.scores, scores[stream.indices], rtol=1e-9, atol=0)


def test_the_memory_of_a_stream_does_not_grow_with_the_keys():
    def peak(count):
        """Bytes that a stream holds, at most, after any of its chunks; the first keys stay in the set."""
        generator = torch.Generator().manual_seed(0)
        stream, largest = KeyStream(16, 0.001), 0
        for i in range(count // 20_000):
            chunk = torch.randn(20_000, 16, generator=generator)
            if i == 0:
                chunk[:40] *= 1000
            stream.update(chunk)
            largest = max(largest, len(pickle.dumps(stream)))
        assert stream.indices.tolist() == list(range(40))
        return largest

    assert peak(1_000_000) <= 1.2 * peak(100_000)  # a block may be fuller or emptier at the end of a chunk


@pytest.fixture
def one_thread():
    """The order of sums within a block belongs to the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_processes_choose_the_set_that_one_chooses(tmp_path, one_thread, ranks):
    divisions = [
        [2 * BLOCK, BLOCK + 100],
        [BLOCK, 2 * BLOCK + 100],
        [2 * BLOCK + 77, 3 * BLOCK - 5],
        [10, 3 * BLOCK],
        [3 * BLOCK, 10],
        [2 * BLOCK, 0],
        [0, 500],
        [200, 300],
    ]
    wholes = [keys(sum(division)) for division in divisions]
    broken = keys(500).index_fill(0, torch.tensor([3]), torch.nan)
    parts = [whole.split(division) for whole, division in zip(wholes, divisions, strict=True)]

    def work():
        rank = int(os.environ["RANK"])
        distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=rank, world_size=2)
        torch.save([choose(part[rank].clone()) for part in (*parts, broken.split(250))], tmp_path / f"{rank}.pt")
        distributed.destroy_process_group()

    assert ranks(work) == [0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert [results.pop() for results in found] == [[], []]
    for whole, division, first, second in zip(wholes, divisions, *found, strict=True):
        scores, together = leverage_scores(whole), torch.cat((first[0], second[0]))
        for start, end in ((0, division[0]), (division[0], sum(division))):  # of blocks that one process holds alone
            own = slice(start + -start % BLOCK, end - end % BLOCK)
            assert torch.equal(together[own], scores[own])
        if division[0] % BLOCK == 0:
            assert torch.equal(together, scores)
        torch.testing.assert_close(together, scores, rtol=1e-9, atol=0)
        for i, expected in ((1, threshold(scores, 0.0008).indices), (2, top_r(scores, 300).indices)):
            assert torch.equal(first[i], expected)
            assert torch.equal(second[i], expected)


def choose(key):
    """Scores of this process's keys and two sets of all; nothing if the keys are refused."""
    try:
        scores = distributed_leverage_scores(key)
    except NlsrError:
        return []
    return [scores, distributed_threshold(scores, 0.0008), distributed_top_r(scores, 300)]


def test_without_a_process_group_one_process_holds_all_keys():
    key = keys(50)
    scores = distributed_leverage_scores(key)
    assert torch.equal(scores, leverage_scores(key))
    assert torch.equal(distributed_threshold(scores, 0.2), threshold(scores, 0.2).indices)
    assert torch.equal(distributed_top_r(scores, 7), top_r(scores, 7).indices)


def test_wrong_arguments_are_refused():
    with pytest.raises(ShapeError, match="0 < eps <= 1"):
        KeyStream(3, 1.5)
    with pytest.raises(ShapeError, match=r"keys of width 3, got \(2, 4\)"):
        KeyStream(3, 0.5).update(torch.zeros(2, 4))
    chunks = iter(keys(20).split(5))
    with pytest.raises(ShapeError, match="same 20 keys twice, got 0"):
        two_pass_set(lambda: chunks, 0.5)


def test_no_keys_give_an_empty_set():
    assert len(two_pass_set(lambda: iter(()), 0.5)) == 0
    assert len(leverage_scores(torch.zeros(0, 3))) == 0
    stream = KeyStream(3, 0.5)
    stream.update(torch.zeros(0, 3))
    assert len(stream.indices) == 0
