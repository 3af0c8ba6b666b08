"""The table of exported files beside torch. Formats that need no extra."""

import json

import jaxtyping
import pytest
from tests.sockets import attempts

from nlsr.benchmark.exports import measure, with_effect
from nlsr.networks import PAN, LCoAN, LCoANConfig, PANConfig
from nlsr.weights import save_network


@pytest.fixture(autouse=True)
def unchecked_shapes():
    jaxtyping.config.update("jaxtyping_disable", True)  # sides of a graph that is recorded are symbols
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_the_command_shows_how_far_files_are_from_torch(nlsr, tmp_path):
    save_network(tmp_path / "m.safetensors", PAN(PANConfig(2, channels=8, upsampler_channels=4, num_blocks=1)))
    words = ("benchmark", "exports", tmp_path / "m.safetensors", "csnln", "--to", "pt2", "-o", tmp_path / "out")
    with attempts() as tried:
        code, out, _ = nlsr(*words)
    assert code == 0
    assert tried == []
    head, _, exported, refused = out.strip().splitlines()
    assert "| 1x1 | 7x5 | 65x33 | 96x64 | 192x160 |" in head
    assert exported.startswith(f"| {tmp_path / 'm.safetensors'} | pt2 | ")
    assert exported.endswith(" | 0.00% | 0.0000 |  |")
    assert "csnln cannot be exported: its attention CrossScale sums patches" in refused
    rows = [json.loads(line) for line in (tmp_path / "out" / "exports.jsonl").read_text().splitlines()]
    assert [len(row["largest"]) for row in rows] == [5, 0]
    assert max(rows[0]["largest"]) < 1e-4


def test_a_file_that_is_too_far_from_torch_says_so(monkeypatch, tmp_path):
    save_network(tmp_path / "m.safetensors", PAN(PANConfig(2, channels=8, upsampler_channels=4, num_blocks=1)))
    monkeypatch.setattr("nlsr.export.proof.NEVER", -1.0)
    (row,) = measure([str(tmp_path / "m.safetensors")], scale=2, formats=["pt2"])
    assert row.failure.startswith("the file computes other than torch on a 1x1 picture")
    assert len(row.largest) == 5


def test_an_attention_that_starts_as_the_identity_gets_an_effect():
    network = LCoAN(LCoANConfig(2, channels=8, num_groups=1, num_blocks=1, num_clusters=4, chunk_size=16))
    values = network.groups[0].attention.values
    before, kernel = values.weight.clone(), network.head.weight.clone()
    assert not before.any()
    assert with_effect(network).groups[0].attention.values.weight.any()
    assert network.head.weight.equal(kernel)


def test_unknown_formats_are_one_line(nlsr):
    assert nlsr("benchmark", "exports", "pan", "--to", "tensorrt") == (
        2,
        "",
        "benchmark: --to tensorrt: expected onnx, openvino, pt2\n",
    )
