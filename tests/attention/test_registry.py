"""Operators by name, and what each says of itself."""

import pytest
import torch
from torch import nn

from nlsr.attention import OPERATORS, Affinity, DenseAffinity, Operator, SharedAttention, operator_name, register
from nlsr.attention.affinity import to_tokens
from nlsr.attention.registry import build_operator
from nlsr.errors import ShapeError, UsageError

REDRAWN = {"kernel"}
LEARNING = {"kmeans", "tokens"}
GROUPED = {"kmeans", "hash", "superbit", "window", "grid", "tokens", "categories", "shifted-window", "focused-window"}


class Mine(Operator):
    """The least that an operator must have."""

    def __init__(self, channels, *, width=2):
        super().__init__()
        self.embed = nn.Conv2d(channels, width, 1)

    def match(self, features, *, draws=None, keep="stored"):
        embedding = to_tokens(self.embed(features))
        return DenseAffinity(embedding, embedding, size=(features.shape[2], features.shape[3]))


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr("nlsr.attention.registry.OPERATORS", OPERATORS.copy())
    register("mine", Mine)


def features(height=11, width=7, channels=8):
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))


def build(name):
    torch.manual_seed(0)
    return build_operator(name, 8, {})


@pytest.mark.parametrize("name", OPERATORS)
def test_an_affinity_knows_the_map_it_belongs_to(name):
    affinity = build(name).match(features(12, 6))
    assert (affinity.height, affinity.width, affinity.num_queries) == (12, 6, 72)
    assert affinity.num_keys == (affinity.height // affinity.cell) * (affinity.width // affinity.cell)


@pytest.mark.parametrize("name", OPERATORS)
def test_nothing_outside_its_reach_is_drawn_on(name):
    affinity, queries = build(name).match(features(12, 10)), torch.tensor([3, 77])
    reach = affinity.reach(queries)
    drawn = (affinity.rows(queries) > 0).any(0).any(0)
    assert (reach is None) == (affinity.reach_is == "all")
    assert reach is None or not (drawn & ~reach).any()


@pytest.mark.parametrize("name", OPERATORS)
def test_groups_have_a_name_and_every_key_is_in_one(name):
    operator = build(name)
    affinity = operator.match(features())
    groups = affinity.groups()
    assert (groups is not None) == bool(operator.groups_are) == (name in GROUPED)
    assert groups is None or groups.shape[2] == affinity.num_keys


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_says_what_training_can_do_with_it(name):
    operator = build(name)
    affinity = operator.match(features())
    assert operator.has_own("learn") == bool(operator.observe(affinity)) == (name in LEARNING)
    assert operator.has_own("redraw") == (name in REDRAWN)
    assert operator.has_own("loss") == (operator.loss(affinity) is not None)
    before = {key: value.clone() for key, value in operator.state_dict().items()}
    operator.redraw(torch.Generator().manual_seed(1))
    changed = [key for key, value in operator.state_dict().items() if not torch.equal(value, before[key])]
    assert bool(changed) == (name in REDRAWN)


def test_one_call_learns_from_an_affinity_and_equal_calls_learn_the_same():
    centroids = []
    for _ in range(2):
        operator = build("kmeans")
        operator.learn_from(operator.match(features()))
        assert operator.kmeans.initialised
        centroids.append(operator.kmeans.centroids)
    assert torch.equal(*centroids)
    build("hash").learn_from(build("hash").match(features()))  # which has nothing to learn


def test_learned_clusters_fit_better():
    operator = build("kmeans")
    before = operator.fit(*operator.observe(operator.match(features())))
    operator.learn_from(operator.match(features()))
    after = operator.fit(*operator.observe(operator.match(features())))
    assert before["cluster_cosine"] < after["cluster_cosine"] <= 1


@pytest.mark.parametrize("name", ["kmeans", "hash", "superbit", "window", "grid", "kernel", "leverage"])
def test_with_all_keys_in_reach_an_operator_draws_what_exact_attention_draws(name):
    """Windows have no bias here, and kernels so many features that the estimate is close."""
    settings = {
        "kmeans": {"chunk_size": 200},
        "hash": {"chunk_size": 200, "rounds": 1},
        "superbit": {"chunk_size": 200, "rounds": 1},
        "window": {"side": 11},
        "grid": {"side": 11},
        "kernel": {"num_features": 100_000, "amplification": 1.0},
        "leverage": {"num_keys": 77},
    }
    torch.manual_seed(0)
    operator = build_operator(name, 8, settings[name])
    if name == "superbit":
        for parameter in operator.score.parameters():
            nn.init.zeros_(parameter)
    map = features()
    close = {"kernel": 0.05}.get(name, 1e-5)
    assert (operator.match(map).dense() - operator.exact(map).dense()).abs().max() < close


def test_a_registered_class_is_built_by_its_name_and_keywords(registered):
    operator = build_operator("mine", 8, {"width": 3})
    assert (type(operator), operator.embed.out_channels, operator_name(operator)) == (Mine, 3, "mine")
    register("mine", Mine)  # again, as a module that is imported twice does
    refined, affinity = SharedAttention(8, operator)(features())
    assert (refined.shape, affinity.reach(torch.tensor([0])), affinity.groups()) == ((2, 8, 11, 7), None, None)


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (
            lambda: build_operator("his", 8, {}),
            "operator: expected one of kmeans, hash, .*, got 'his'; import the module that registers it",
        ),
        (lambda: build_operator("hash", 8, {"depth": 3}), "operator 'hash' cannot be built with .*'depth'"),
        (lambda: operator_name(Mine(8)), "operator Mine has no name; register it with"),
        (lambda: register("hash", Mine), "operator 'hash' is nlsr.attention.nonlocal_sparse.NonLocalSparse already"),
        (lambda: register("my own", Mine), "expected a name of letters, digits and dashes for Mine, got 'my own'"),
        (lambda: register("none", Mine), "got 'none'"),
        (lambda: register("mine", nn.Conv2d), "expected a subclass of nlsr.attention.Operator as 'mine'"),
        (lambda: register("mine", Mine(8)), "expected a subclass of nlsr.attention.Operator as 'mine'"),
    ],
)
def test_what_cannot_be_known_is_said(do, message):
    with pytest.raises(UsageError, match=message):
        do()


def test_an_affinity_that_does_not_say_its_map_is_refused():
    class Flat(Mine):
        def match(self, features, *, draws=None, keep="stored"):
            embedding = to_tokens(self.embed(features))
            return DenseAffinity(embedding, embedding)

    with pytest.raises(ShapeError, match="expected an affinity of a 11x7 map, got one of 1x77"):
        SharedAttention(8, Flat(8))(features())


def test_the_base_classes_ask_for_match_aggregate_and_rows_alone():
    assert Operator.__abstractmethods__ == {"match"}
    assert Affinity.__abstractmethods__ == {"aggregate", "rows"}
