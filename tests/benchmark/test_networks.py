"""Multiply-adds of whole networks against published counts."""

import pytest

from nlsr.benchmark.networks import multiply_adds

SIZES = {2: (360, 640), 3: (240, 426), 4: (180, 320)}


@pytest.mark.parametrize(("scale", "published"), [(2, 70.52), (3, 38.99), (4, 28.16)])
def test_multiply_adds_of_pan_are_the_published_ones(scale, published):
    assert multiply_adds("pan", scale, *SIZES[scale]) / 1e9 == pytest.approx(published, abs=0.006)


def test_multiply_adds_are_counted_where_shapes_depend_on_numbers():
    """CATANet's windows overlap: how many cover a position is counted on the way."""
    assert multiply_adds("catanet", 4, 8, 8) > multiply_adds("catanet", 4, 6, 6) > 0


@pytest.mark.parametrize("preset", ["atd-light", "pft-light", "catanet-shared", "smfanet-plus"])
def test_the_multiply_adds_of_newer_networks_are_counted(preset):
    assert multiply_adds(preset, 4, 16, 16) > 0


def test_networks_that_an_engine_cannot_run_are_refused_before_anything_is_measured(nlsr, monkeypatch):
    assert nlsr("benchmark", "networks", "pan", "--engine", "tensorrt") == (
        2,
        "",
        "benchmark: --engine tensorrt: expected torch, onnxruntime, openvino\n",
    )
    monkeypatch.setattr("nlsr.extras.find_spec", lambda _: True)
    code, out, err = nlsr("benchmark", "networks", "csnln", "--engine", "openvino")
    assert (code, out) == (2, "")
    assert err.startswith("benchmark: csnln cannot be exported: its attention CrossScale sums patches")
