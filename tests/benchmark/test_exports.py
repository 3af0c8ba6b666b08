"""The table of exported files beside torch. Formats that need no extra."""

import json
from dataclasses import asdict, replace

import jaxtyping
import pytest
from tests.sockets import attempts

from nlsr.benchmark.exports import Row, complete, measure, with_effect
from nlsr.errors import CheckpointError
from nlsr.export import FORMATS, proof
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


def test_a_run_that_was_stopped_goes_on_after_the_last_complete_network(nlsr, monkeypatch, tmp_path):
    for name, channels in (("a", 8), ("b", 12)):
        network = PAN(PANConfig(2, channels=channels, upsampler_channels=4, num_blocks=1))
        save_network(tmp_path / f"{name}.safetensors", network)
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    words = ("benchmark", "exports", first, second, "--to", "pt2", "-o", tmp_path / "out")
    compared = []

    def compare(network, run):
        compared.append(network.config.channels)
        if compared == [8, 12]:
            raise KeyboardInterrupt
        return proof.compare(network, run)

    monkeypatch.setattr("nlsr.benchmark.exports.compare", compare)
    assert nlsr(*words)[0] == 130
    rows = tmp_path / "out" / "exports.jsonl"
    assert [json.loads(line)["name"] for line in rows.read_text().splitlines()] == [str(first)]
    code, out, _ = nlsr(*words, "--resume")
    assert (code, compared) == (0, [8, 12, 12])
    assert [line.split(" | ")[0] for line in out.strip().splitlines()[2:]] == [f"| {first}", f"| {second}"]
    rows.write_text("{}\n")
    code, _, err = nlsr(*words, "--resume")
    assert (code, err) == (2, f"benchmark: {rows}: expected the rows of an earlier run; leave out --resume\n")
    assert nlsr(*words[:-2], "--resume")[2] == "benchmark: --resume: expected -o with the folder of an earlier run\n"


def test_presets_of_another_scale_and_networks_that_lack_a_format_are_not_complete(tmp_path):
    path = tmp_path / "exports.jsonl"
    rows = [Row("pan", 2, "pt2", (0.0,)), Row("m.safetensors", 3, "pt2", ()), Row("m.safetensors", 3, "onnx", ())]
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    assert complete(path, scale=2, formats=["pt2"]) == [rows[0], rows[1], rows[2]]
    assert complete(path, scale=4, formats=["pt2", "onnx"]) == rows[1:]
    assert complete(path, scale=4) == []


def test_a_file_that_is_too_far_from_torch_says_so(monkeypatch, tmp_path):
    save_network(tmp_path / "m.safetensors", PAN(PANConfig(2, channels=8, upsampler_channels=4, num_blocks=1)))
    monkeypatch.setattr("nlsr.export.proof.Difference.is_much", True)
    (row,) = measure([str(tmp_path / "m.safetensors")], scale=2, formats=["pt2"])
    assert row.failure.startswith("the file computes other than torch on a 1x1 picture")
    assert len(row.largest) == 5


def test_a_file_that_its_own_library_cannot_run_is_not_called_damaged(monkeypatch, tmp_path):
    def fails(path):
        raise CheckpointError(f"{path}: damaged, or written by another version") from RuntimeError("no kernel\nof many")

    save_network(tmp_path / "m.safetensors", PAN(PANConfig(2, channels=8, upsampler_channels=4, num_blocks=1)))
    monkeypatch.setitem(FORMATS, "pt2", replace(FORMATS["pt2"], open=fails))
    (row,) = measure([str(tmp_path / "m.safetensors")], scale=2, formats=["pt2"])
    assert (row.failure, row.largest) == ("the file cannot be run (no kernel); no file was written", ())


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
