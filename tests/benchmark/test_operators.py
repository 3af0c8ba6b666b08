"""Counts and fits that are known, and workers that survive what they run."""

import math

import pytest

from nlsr.attention import OPERATORS
from nlsr.benchmark.operators import Measurement, Stack, check, exponent, measure
from nlsr.benchmark.workers import Failed, Worker

FOR_EVER = 10**6


def rows(power, sizes=(32, 64, 128)):
    return [Measurement("x", size, 8, "forward", seconds=3e-6 * (size**2) ** power) for size in sizes]


@pytest.mark.parametrize("power", [1.0, 1.25, 2.0])
def test_the_fitted_power_is_that_of_the_data(power):
    assert exponent(rows(power), "seconds") == pytest.approx(power)


def test_one_point_has_no_power():
    assert math.isnan(exponent(rows(1.0, sizes=(32,)), "seconds"))


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_checked_before_they_are_timed(name):
    check(name)


def test_a_wrong_operator_is_not_timed(monkeypatch):
    monkeypatch.setattr("nlsr.attention.DenseAffinity.aggregate", lambda self, values: 2 * values)
    with pytest.raises(Failed, match="differs from its own dense matrix"):
        check("dense")


def test_counted_multiply_adds_of_exact_attention_are_those_of_its_formula():
    (row,) = measure(["dense"], [24], channels=16, what=["forward"], repeats=1, threads=1)
    length, channels = 24**2, 16
    embeddings = length * (2 * channels * channels // 2 + channels * channels)
    assert row.multiply_adds == embeddings + length**2 * (channels // 2 + channels)


def test_a_sharing_stack_owns_one_operator_and_the_other_ten():
    for share, count in ((True, 1), (False, 10)):
        assert sum(block.operator is not None for block in Stack("kmeans", 16, share=share).blocks) == count


def test_what_cannot_be_loaded_is_said_and_not_waited_for(capfd):
    with pytest.raises(Failed, match="the process died"):
        Worker("tests.benchmark.nowhere", threads=1).ask("add", 2, 3, limit=FOR_EVER)
    assert "No module named" in capfd.readouterr().err


def test_a_worker_that_takes_too_long_is_replaced():
    worker = Worker("tests.benchmark.slow", threads=1)
    try:
        with pytest.raises(Failed, match="more than 0 s"):
            worker.ask("sleep", FOR_EVER, limit=0.01)
        assert worker.ask("add", 2, 3, limit=FOR_EVER) == 5
        with pytest.raises(Failed, match="no such thing"):
            worker.ask("fail", limit=FOR_EVER)
        with pytest.raises(Failed, match="out of memory"):
            worker.ask("die", limit=FOR_EVER)
    finally:
        worker.close()
