"""Graphs by torch.export, which needs no extra: what is in the file, that it computes what torch does, and refusals."""

import contextlib
import json
from dataclasses import replace

import pytest
import torch
from tests.small import OF_OTHER_SCALES, OF_POSITIONS, OF_WINDOWS, PLAIN, small, with_effect
from tests.sockets import attempts
from torch.utils._python_dispatch import TorchDispatchMode

import nlsr as package
from nlsr.errors import CheckpointError, ExportError, TargetError, UsageError
from nlsr.export import FORMATS, export
from nlsr.export import proof as proofs
from nlsr.export.graph import _holding_directions, record
from nlsr.networks import PAN, PANConfig, build
from nlsr.weights import save_network

SIZES = [(1, 1, 1), (1, 2, 3), (3, 5, 9), (1, 7, 31), (2, 16, 16), (1, 33, 21), (1, 40, 64)]


@pytest.mark.parametrize("name", [*PLAIN, *OF_POSITIONS])
@torch.no_grad()
def test_a_file_computes_what_the_network_does_at_every_size(tmp_path, monkeypatch, name):
    if name == "nlan":  # its time is quadratic
        monkeypatch.setattr(proofs, "SIZES", proofs.SIZES[:-1])
    load, loaded = torch.export.load, []
    monkeypatch.setattr(torch.export, "load", lambda path: loaded.append(load(path)) or loaded[-1])
    network = small(name)
    proof = export(network, tmp_path / "a.pt2", to="pt2")
    assert [(each.height, each.width) for each in proof.differences] == list(proofs.SIZES)
    graph = loaded.pop().module()  # of the file that was proved: to read it again takes as long as to record it
    assert loaded == []
    for size in SIZES:
        low_res = torch.rand(size[0], 3, *size[1:])
        torch.testing.assert_close(graph(low_res), network(low_res), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["dlsn", "nlsn", *OF_WINDOWS, *OF_OTHER_SCALES])
@torch.no_grad()
def test_the_form_for_graphs_computes_what_the_network_does_at_every_size(monkeypatch, name):
    network = small(name)
    pictures = [torch.rand(size[0], 3, *size[1:]) for size in (*SIZES, (1, 3, 2), (1, 6, 4), (1, 65, 9))]
    expected = [network(picture) for picture in pictures]
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    with _holding_directions(network):
        for picture, upscaled in zip(pictures, expected, strict=True):
            torch.testing.assert_close(network(picture), upscaled, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_no_tensor_of_a_graph_of_pft_holds_the_scores_of_several_heads(monkeypatch):
    """An engine that plans without sizes holds the largest tensor many times."""
    network, picture, largest = small("pft"), torch.rand(1, 3, 16, 16), []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            largest.append(result.numel() if isinstance(result, torch.Tensor) else 0)
            return result

    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    with Watching():
        network(picture)
    shifted_windows, positions = 9, 8 * 8
    assert max(largest) == shifted_windows * positions**2


@pytest.fixture(scope="module")
def recorded_pan():
    """A network and its graph."""
    network = small("pan")
    return network, record(network)


@torch.no_grad()
def test_weights_may_lie_in_memory_as_they_like(tmp_path):
    network = build(replace(PLAIN["smfanet"], num_blocks=3)).eval()  # fewer had a graph in any case
    for weight in network.parameters():
        if weight.dim() == 4:  # channels last, also where only a stride of one channel says so
            inputs, height, width = weight.shape[1:]
            strides = height * width * inputs, 1, width * inputs, inputs
            weight.data = torch.empty_strided(weight.shape, strides).copy_(weight)
    depthwise = network.blocks[0].modulation.pooled.weight
    export(network, tmp_path / "a.pt2", to="pt2")
    assert network.blocks[0].modulation.pooled.weight is depthwise
    assert depthwise.stride() == (9, 1, 3, 1)


def test_a_file_computes_in_single_precision_whatever_its_maker_computed_in(tmp_path):
    network, picture = small("pan"), proofs.example()[..., :24, :20].contiguous()
    with torch.no_grad():
        expected = network(picture)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            proof = export(network, tmp_path / "a.pt2", to="pt2")
            assert not torch.allclose(network(picture).float(), expected, atol=1e-5)
        torch.testing.assert_close(FORMATS["pt2"].open(tmp_path / "a.pt2")(picture), expected, atol=1e-6, rtol=1e-5)
    assert proof.largest < 1e-5


def test_a_file_says_what_it_holds(tmp_path):
    network = small("pan")
    export(network, tmp_path / "a.pt2", to="pt2", card={"steps": 7})
    said = {"nlsr.json": ""}
    torch.export.load(tmp_path / "a.pt2", extra_files=said)
    facts = json.loads(said["nlsr.json"])
    assert (facts["network"], facts["scale"], json.loads(facts["card"])) == ("pan", "4", {"steps": 7})
    assert json.loads(facts["config"])["channels"] == 8


def test_half_precision_halves_the_file_and_loses_little(tmp_path):
    network = with_effect(PAN(PANConfig(2, channels=64, num_blocks=2)))
    export(network, tmp_path / "a.pt2", to="pt2")
    proof = export(network, tmp_path / "b.pt2", to="pt2", weights="fp16")
    spared = (tmp_path / "a.pt2").stat().st_size - (tmp_path / "b.pt2").stat().st_size
    assert spared > sum(parameter.numel() for parameter in network.parameters())
    assert proof.largest > 0
    assert proof.lost_db <= 0.02


@pytest.mark.parametrize(("off", "is_close"), [(0.002, True), (0.06, False)])
def test_where_rounding_decides_a_file_may_be_as_far_off_as_the_network_from_itself(monkeypatch, off, is_close):
    """As where a position changes its group, and all that are sorted behind it move."""
    network = small("pan")
    plain, first = network.forward, proofs.example()[..., 0, 0].clone()

    def undecided(low_res, step=0.002):
        return plain(low_res) + step * (low_res[0, :, 0, 0] > first).any()

    monkeypatch.setattr(network, "forward", undecided)
    proof = proofs.compare(network, lambda low_res: plain(low_res) + off)
    assert proof.share == 1
    with contextlib.nullcontext() if is_close else pytest.raises(ExportError, match=r"differ by up to 0\.06"):
        proofs.check(proof)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda upscaled: upscaled + 0.002, r"differ by up to 0\.002.*, 100\.00% of them by more than 0\.001"),
        (lambda upscaled: upscaled + 0.06 * torch.eye(*upscaled.shape[2:])[:, :1], "values differ by up to 0.06"),
        (lambda upscaled: upscaled * torch.nan, "values differ by up to nan"),
        (lambda upscaled: upscaled[..., 1:], "the file makes"),
        (lambda upscaled: 1 // 0, "the file fails on a 1x1 picture: integer division"),
    ],
)
def test_a_file_that_computes_something_else_is_not_left(tmp_path, monkeypatch, recorded_pan, wrong, message):
    from nlsr.export import formats

    network, program = recorded_pan
    monkeypatch.setattr(package.export, "record", lambda *_, **__: program)
    right = formats.FORMATS["pt2"]
    broken = {**vars(right), "open": lambda path: lambda low_res: wrong(right.open(path)(low_res))}
    monkeypatch.setitem(formats.FORMATS, "pt2", formats.Format(**broken))
    with pytest.raises(ExportError, match=message):
        export(network, tmp_path / "a.pt2", to="pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays_unless_it_may_be_replaced(tmp_path):
    path = tmp_path / "a.pt2"
    path.write_bytes(b"before")
    with pytest.raises(TargetError, match="exists already"):
        export(small("pan"), path, to="pt2")
    assert path.read_bytes() == b"before"
    export(small("pan"), path, to="pt2", overwrite=True)
    assert path.stat().st_size > 1000
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("csnln", r"csnln cannot be exported: its attention CrossScale sums patches .* \(Tensor\.add_\)"),
        ("levn", r"lcoan cannot be exported: its attention Leverage decomposes a matrix on the way \(torch\.linalg"),
    ],
)
def test_what_has_no_graph_says_which_operation_and_why(tmp_path, network, message):
    with pytest.raises(UsageError, match=message):
        export(package.create(network, scale=2, channels=16), tmp_path / "a.pt2", to="pt2")
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_file_and_says_how_far_it_is_from_torch(nlsr, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_network("m.safetensors", small("lcoan"))
    with attempts() as tried:
        code, out, err = nlsr("export", "m.safetensors", "--to", "pt2")
    assert (code, err) == (0, "")
    assert tried == []  # nothing is sent anywhere
    assert out.startswith("m.pt2: x2, any size; on 5 sizes of a photo its values differ from torch's by ")
    save_network("m.safetensors", small("pan"))  # whose graph is small
    code, out, _ = nlsr("export", "m.safetensors", "--to", "pt2", "--overwrite", "--json")
    assert code == 0
    assert json.loads(out)["files"] == ["m.pt2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "tensorrt"], "--to tensorrt: expected onnx, openvino, pt2"),
        (["--to", "pt2", "-o", "m.onnx"], "m.onnx: expected a name that ends in .pt2"),
        (["--to", "pt2", "-o", "nowhere/m.pt2"], "nowhere/m.pt2: its folder does not exist; create it"),
        (["--to", "pt2", "--weights", "int4"], "--weights int4: expected fp32, fp16"),
    ],
)
def test_wrong_words_are_one_line(nlsr, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    save_network("m.safetensors", small("pan"))
    code, out, err = nlsr("export", "m.safetensors", *words)
    assert (code, out, err) == (2, "", f"export: {message}\n")
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_a_missing_extra_says_how_to_install_it(nlsr, tmp_path, monkeypatch, to):
    monkeypatch.setattr("nlsr.extras.find_spec", lambda _: None)
    code, _, err = nlsr("export", "lcoan-light-x2", "--to", to, "-o", tmp_path / "a")
    assert code == 2
    assert f"export: this needs '{to}'; install it with: " in err


def test_a_damaged_file_is_one_line(tmp_path):
    (tmp_path / "a.pt2").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match=r"a\.pt2: damaged, or written by another version \(.*\)") as info:
        FORMATS["pt2"].open(tmp_path / "a.pt2")
    assert "\n" not in str(info.value)


def test_a_file_that_its_own_library_does_not_read_is_not_left(tmp_path, monkeypatch):
    def unread(path):
        raise CheckpointError("damaged") from RuntimeError("Exception from core.cpp:1\nno such operation")

    monkeypatch.setitem(FORMATS, "pt2", replace(FORMATS["pt2"], open=unread))
    with pytest.raises(ExportError, match=r"the file cannot be run \(no such operation\); no file was written"):
        export(small("pan"), tmp_path / "a.pt2", to="pt2")
    assert list(tmp_path.iterdir()) == []
