"""What looks alike is known, and what a match reaches of it is counted."""

import pytest
import torch

from nlsr.attention import LearnableSparsePattern, Nearest, NonLocal
from nlsr.benchmark.recall import APART, looks_alike, operator_like, reached
from nlsr.images import Picture, write

PERIOD = 5
"""Low-res pixels after which the test picture repeats itself."""


def repeating(height, width, scale=4):
    tile = torch.rand(1, 3, PERIOD * scale, PERIOD * scale, generator=torch.Generator().manual_seed(5))
    whole = tile.repeat(1, 1, -(-height // PERIOD), -(-width // PERIOD))
    return whole[:, :, : scale * height, : scale * width].contiguous()


def test_in_a_picture_that_repeats_itself_whole_periods_away_looks_most_alike():
    truth, queries = looks_alike(repeating(40, 35), 4)
    inside = ((queries // 35 > 0) & (queries // 35 < 38) & (queries % 35 > 0) & (queries % 35 < 33)).nonzero()[:, 0]
    rows = (truth[inside] // 35 - queries[inside, None] // 35).abs()
    columns = (truth[inside] % 35 - queries[inside, None] % 35).abs()
    assert len(inside) > 100
    assert ((rows % PERIOD == 0) & (columns % PERIOD == 0)).all()
    assert (torch.maximum(rows, columns) > APART).all()


def test_who_draws_on_all_reaches_all_and_who_draws_on_few_reaches_their_share():
    features = torch.randn(1, 8, 10, 9)
    queries = torch.arange(0, 90, 7)
    truth = torch.stack([(queries + 40) % 90, (queries + 20) % 90], 1)
    assert reached(NonLocal(8).match(features), queries, truth) == (90, 1)
    affinity = Nearest(8, num_nearest=5).match(features)
    own = affinity.index[0, queries, 1].long()
    truth = torch.stack([own, own], 1)
    assert reached(affinity, queries, truth) == (5, 1)
    missed = torch.tensor([[int((affinity.rows(q[None])[0, 0] == 0).nonzero()[0, 0])] for q in queries])
    assert reached(affinity, queries, torch.cat([truth, missed], 1)) == (5, pytest.approx(2 / 3))


def test_an_operator_takes_over_the_embedding_of_the_models_own():
    own = LearnableSparsePattern(8, reduction=2)
    nearest = operator_like(own, "nearest", 8, {"num_nearest": 3})
    assert torch.equal(nearest.embed.weight, own.embed.weight)
    assert nearest.num_nearest == 3


def test_the_command_prints_keys_and_recall_of_the_model_and_of_operators(nlsr, tmp_path):
    write(tmp_path / "pictures.png", Picture(repeating(24, 20)))
    code, out, _ = nlsr(
        "benchmark", "recall", "nearest", "--data", tmp_path, "--set", "num_nearest=8", "-o", tmp_path / "o"
    )
    assert code == 0
    head, _, own, nearest = out.strip().splitlines()
    assert "recall of the 16 most alike" in head
    assert "its own" in own
    assert nearest.split("|")[1:3] == [" nearest num_nearest=8 ", " 8 "]
    assert (tmp_path / "o" / "recall.md").read_text() == out
    assert len((tmp_path / "o" / "recall.jsonl").read_text().splitlines()) == 2


def test_a_model_that_matches_nothing_and_unknown_operators_are_refused(nlsr, tmp_path):
    write(tmp_path / "picture.png", Picture(repeating(24, 20)))
    code, _, err = nlsr("benchmark", "recall", "nearby", "--data", tmp_path)
    assert code == 2
    assert "got 'nearby'" in err
    code, _, err = nlsr("benchmark", "recall", "--data", tmp_path / "nothing")
    assert code == 1
    assert len(err.strip().splitlines()) == 1
