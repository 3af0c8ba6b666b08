"""ONNX Runtime and OpenVINO: files and engines beside torch, without a network."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from importlib.util import find_spec

import jaxtyping
import pytest
import torch
from PIL import Image
from tests.small import PLAIN, small
from tests.sockets import FATAL, attempts

from nlsr import Upscaler
from nlsr.benchmark.networks import REQUESTS
from nlsr.errors import CheckpointError
from nlsr.export import FORMATS, export, onnx_of
from nlsr.export.formats import open_onnx, open_openvino
from nlsr.export.graph import record
from nlsr.export.onnx import onnx_model
from nlsr.export.proof import SIZES, example
from nlsr.images import Picture
from nlsr.memory import give_back, peak_memory, reset_peak
from nlsr.networks import PRESETS, PANConfig, build
from nlsr.serve.asked import Asked
from nlsr.serve.computing import Computing
from nlsr.serve.settings import Settings
from nlsr.upscale.batch import Saving, Task
from nlsr.upscale.batch import run as run_batch
from nlsr.upscale.identity import identity
from nlsr.weights import save_network

for module, extra in (("onnxruntime", "onnx"), ("onnx", "onnx"), ("openvino", "openvino")):
    if find_spec(module) is None:  # not imported: OpenVINO must not be before nlsr does it
        pytest.skip(f"needs {module}: pip install 'nlsr[{extra}]'", allow_module_level=True)

OTHERS = "asid", "atd", "catanet", "nlan", "nlsn", "pft"
"""What each adds: grids and attention between channels, a dictionary and shifted windows, sorted chunks and overlapping
windows, blocks of exact attention, hashes, kept keys."""


@pytest.fixture(autouse=True, scope="module")
def made_once():
    """A graph of each network is recorded and brought into ONNX once, by the first test that asks for it: that is what
    takes the time of these tests. Python's search for garbage among its nodes takes a fifth of it."""
    import onnx

    made = {}

    def recorded(network, *, weights="fp32"):
        key = identity(network), weights
        if key not in made:
            made[key] = record(network, weights=weights)
        return made[key]

    def translated(program, metadata):
        if id(program) not in made:
            made[id(program)] = onnx_model(program, {})
        model = onnx.load_from_string(made[id(program)])
        onnx.helper.set_model_props(model, metadata)
        return model.SerializeToString()

    gc.disable()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nlsr.export.record", recorded)
        for module in ("nlsr.export", "nlsr.export.formats"):
            patch.setattr(f"{module}.onnx_model", translated)
        yield
    gc.enable()


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    monkeypatch.setenv("NLSR_CACHE", str(tmp_path / "cache"))
    jaxtyping.config.update("jaxtyping_disable", True)  # sides of a graph that is recorded are symbols
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("to", ["onnx", "openvino"])
@pytest.mark.parametrize("name", PLAIN)
@torch.no_grad()
def test_a_file_computes_what_the_network_does_and_opens_no_socket(tmp_path, name, to):
    net, path = small(name), tmp_path / f"a{FORMATS[to].suffix}"
    with attempts() as tried:
        export(net, path, to=to)
        run = FORMATS[to].open(path)
        for size in ((2, 7, 31), (1, 3, 2), (1, 48, 33)):
            low_res = example()[..., : size[1], : size[2]].expand(size[0], -1, -1, -1)
            torch.testing.assert_close(run(low_res), net(low_res), atol=1e-4, rtol=1e-3)
    assert tried == []


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_engines_compute_what_the_network_does(monkeypatch, name):
    monkeypatch.setattr("nlsr.networks.asid.STAGES", 2)  # a third one is like the second
    net = small(name)
    graph = onnx_model(record(net), {})
    opened = [open_onnx(graph)] if name == "nlan" else [open_onnx(graph), open_openvino(graph)]  # which has no scan
    for run in opened:
        for size in ((2, 7, 31), (1, 1, 1), (1, 48, 33)):
            low_res = example()[..., : size[1], : size[2]].expand(size[0], -1, -1, -1)
            torch.testing.assert_close(run(low_res), net(low_res), atol=1e-4, rtol=1e-3)


ENGINES_AT_WORK = """
import jaxtyping, torch
from nlsr import Upscaler
from nlsr.benchmark.networks import REQUESTS
from nlsr.export import export
from nlsr.export.proof import example
from nlsr.images import Picture
from nlsr.networks import PAN, PANConfig
jaxtyping.config.update("jaxtyping_disable", True)
network = PAN(PANConfig(2, channels=8, upsampler_channels=4, num_blocks=1)).eval()
for to, suffix in (("onnx", "onnx"), ("openvino", "xml")):
    export(network, f"m.{suffix}", to=to)
for engine in ("onnxruntime", "openvino"):
    assert Upscaler(network, engine=engine, precision="fp32").upscale(Picture(example(), depth=32)).notes == ()
print("done")
"""


def test_no_native_code_opens_a_socket(tmp_path):
    """In a process that does not survive one."""
    made, working = (
        subprocess.run(
            [sys.executable, "-c", FATAL + program], check=False, cwd=tmp_path, capture_output=True, text=True
        )
        for program in ("import socket; socket.socket()", ENGINES_AT_WORK)
    )
    assert made.returncode == -signal.SIGSYS
    assert (working.returncode, working.stdout) == (0, "done\n"), working.stderr


def test_ten_lines_of_onnxruntime_alone_run_a_file(tmp_path):
    """Neither torch nor nlsr may be imported."""
    net = small()
    export(net, tmp_path / "m.onnx", to="onnx", card={"steps": 3})
    Image.effect_noise((37, 21), 60).convert("RGB").save(tmp_path / "small.png")
    docs = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "engines.md")
    with open(docs, encoding="utf-8") as file:
        lines = file.read().split("```python\n")[1].split("```")[0]
    assert len(lines.strip().splitlines()) <= 10
    blocked = "import sys; sys.modules['torch'] = sys.modules['nlsr'] = None\n"
    silent = os.environ | {"ORT_DISABLE_TELEMETRY": "1"}
    subprocess.run([sys.executable, "-c", blocked + lines], cwd=tmp_path, check=True, env=silent)
    upscaler = Upscaler(net, precision="fp32")
    upscaler.save(__import__("nlsr").read(tmp_path / "small.png"), tmp_path / "expected.png")
    with Image.open(tmp_path / "large.png") as one, Image.open(tmp_path / "expected.png") as other:
        assert one.size == (74, 42)
        pairs = zip(one.convert("RGB").tobytes(), other.convert("RGB").tobytes(), strict=True)
        assert sum(abs(a - b) > 1 for a, b in pairs) <= 0.001 * 3 * 74 * 42
    import onnxruntime

    facts = onnxruntime.InferenceSession(tmp_path / "m.onnx").get_modelmeta().custom_metadata_map
    assert (facts["network"], facts["scale"], json.loads(facts["card"])) == ("lcoan", "2", {"steps": 3})


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_upscales_as_torch_does_and_finds_its_graph_again(monkeypatch, tmp_path, engine):
    net, picture = small("pan"), Picture(example(), depth=32)
    with attempts() as tried:
        result = Upscaler(net, engine=engine, precision="fp32", tile=64).upscale(picture)
    assert tried == []
    assert result.notes == ()
    expected = Upscaler(net, precision="fp32", tile=64).upscale(picture).picture.pixels
    torch.testing.assert_close(result.picture.pixels, expected, atol=1e-4, rtol=1e-3)
    (graph,) = (tmp_path / "cache" / "engines").glob("*.onnx")
    monkeypatch.setattr("nlsr.upscale.engine.onnx_of", lambda _: pytest.fail("made again"))
    assert Upscaler(net, engine=engine, precision="fp32", tile=64).upscale(picture).notes == ()
    monkeypatch.undo()
    monkeypatch.setenv("NLSR_CACHE", str(tmp_path / "cache"))
    graph.write_bytes(graph.read_bytes()[:100])
    assert Upscaler(net, engine=engine, precision="fp32", tile=64).upscale(picture).notes == ()
    assert graph.stat().st_size > 1000


def compiled_for(monkeypatch):
    """The sizes that OpenVINO compiles networks for, as it does."""
    shapes = []

    def opened(graph, *, shape=None, **options):
        shapes.append(shape)
        return open_openvino(graph, shape=shape, **options)

    monkeypatch.setattr("nlsr.upscale.engine.open_openvino", opened)
    return shapes


def test_openvino_compiles_a_network_for_the_size_of_a_large_picture_whatever_came_before(monkeypatch, tmp_path):
    shapes = compiled_for(monkeypatch)
    monkeypatch.setattr("nlsr.upscale.engine.FIXED_FROM", 160 * 192)
    net, large, little = small("smfanet"), Picture(example(), depth=32), Picture(example()[..., :40, :50], depth=32)
    upscaler = Upscaler(net, engine="openvino", precision="fp32", tile=64)
    first, other, again = (upscaler.upscale(picture) for picture in (large, little, large))
    rows, columns = first.plan.rows.tile_size, first.plan.columns.tile_size
    assert shapes == [None, (1, 3, rows, columns), None, (1, 3, rows, columns)]  # a graph is proved at every size
    assert (first.notes, other.notes, again.notes) == ((), (), ())
    assert torch.equal(first.picture.pixels, again.picture.pixels)
    expected = Upscaler(net, precision="fp32", tile=64).upscale(large).picture.pixels
    torch.testing.assert_close(first.picture.pixels, expected, atol=1e-4, rtol=1e-3)


def test_openvino_never_compiles_a_heavy_network_for_every_size(monkeypatch, tmp_path):
    shapes = compiled_for(monkeypatch)
    net, picture = small("lcoan"), Picture(example()[..., :40, :50], depth=32)
    monkeypatch.setattr("nlsr.upscale.engine.HEAVY", max(operator.floats_in_graph() for operator in net.operators()))
    result = Upscaler(net, engine="openvino", precision="fp32").upscale(picture)
    assert result.notes == ()
    assert shapes[:5] == [(1, 3, *size) for size in SIZES]
    assert shapes[-1] == (1, 3, 40, 50)


def test_openvino_compiles_a_network_for_the_size_of_a_batch_if_all_pictures_have_one(nlsr, monkeypatch, tmp_path):
    shapes = compiled_for(monkeypatch)
    monkeypatch.setattr("nlsr.upscale.engine.FIXED_FROM", 3 * 40 * 48)
    save_network(tmp_path / "m.safetensors", small("pan"))
    (tmp_path / "in").mkdir()
    for index in range(3):
        Image.effect_noise((48, 40), 20 * index + 20).convert("RGB").save(tmp_path / "in" / f"{index}.png")
    words = ("upscale", tmp_path / "in", "-o", tmp_path / "out", "--model", tmp_path / "m.safetensors")
    words += ("--engine", "openvino", "--precision", "fp32")
    assert nlsr(*words)[0] == 0
    assert shapes == [None, (1, 3, 40, 48)]  # once to prove the graph
    made = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.png")}

    (tmp_path / "out" / "1.png").unlink()
    assert nlsr(*words, "--resume")[0] == 0
    assert shapes[2:] == [(1, 3, 40, 48)]  # of a batch of three pictures, two of which are finished
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.png")} == made

    upscaler = Upscaler(tmp_path / "m.safetensors", engine="openvino", precision="fp32")
    part = [Task(tmp_path / "in" / "1.png", tmp_path / "part.png")]  # as a worker of a cluster gets it
    assert [done.status for done in run_batch(upscaler, part, Saving(), alike=3)] == ["done"]
    assert shapes[3:] == [(1, 3, 40, 48)]
    assert (tmp_path / "part.png").read_bytes() == made["1.png"]

    (tmp_path / "in" / "3.png").write_bytes(b"no picture")
    assert nlsr(*words, "--overwrite")[0] == 1
    (tmp_path / "in" / "3.png").unlink()
    Image.effect_noise((48, 41), 20).convert("RGB").save(tmp_path / "in" / "4.png")
    assert nlsr(*words, "--overwrite")[0] == 0
    assert shapes[4:] == [None, None]


@torch.no_grad()
def test_what_openvino_computed_stays_when_it_computes_more():
    run = open_openvino(onnx_of(small("pan")))
    first = run(example())
    before = first.clone()
    run(1 - example())
    assert torch.equal(first, before)


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="the system does not start a new peak")
def test_onnxruntime_takes_no_more_memory_for_a_picture_that_comes_again():
    graph, picture = onnx_of(build(PANConfig(4, num_blocks=1)).eval()), torch.rand(1, 3, 160, 160)
    give_back()
    before = reset_peak()
    run = open_onnx(graph)
    run(picture)
    first = peak_memory() - before
    for _ in range(3):
        run(picture)
    assert peak_memory() - before < 1.3 * first + 2**25


@pytest.mark.parametrize(
    ("channels", "processor", "in_blocks"), [(40, "AVX512", False), (40, "AVX2", True), (32, "AVX512", True)]
)
def test_onnxruntime_lays_channels_in_blocks_where_they_fill_them(monkeypatch, channels, processor, in_blocks):
    import onnxruntime

    opened = []
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda graph, options, **_: opened.append(options))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    open_onnx(onnx_of(build(PANConfig(2, channels=channels, upsampler_channels=16, num_blocks=1)).eval()))
    level = onnxruntime.GraphOptimizationLevel
    assert opened[0].graph_optimization_level == (level.ORT_ENABLE_ALL if in_blocks else level.ORT_ENABLE_EXTENDED)


def of_gelu(approximate):
    """A graph, and what it should compute of which features."""
    network, features = torch.nn.GELU(approximate), torch.randn(1, 3, 9, 7)
    return onnx_model(torch.export.export(network, (features,)), {}), features, network(features)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_computed_as_torch_does(approximate):
    graph, features, expected = of_gelu(approximate)
    torch.testing.assert_close(open_onnx(graph)(features), expected)


def test_onnxruntime_computes_gelu_in_one_pass(tmp_path):
    import onnx
    import onnxruntime

    graph, _, _ = of_gelu("none")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    operations = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert operations == ["Gelu"]


@torch.no_grad()
def test_a_graph_that_is_made_while_torch_computes_in_bf16_computes_in_single_precision():
    net = small("pan")
    expected = net(example())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        graph = onnx_of(net)
    torch.testing.assert_close(open_onnx(graph)(example()), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_cache_that_cannot_be_written_is_no_failure(monkeypatch, tmp_path, engine):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NLSR_CACHE", str(tmp_path / "file" / "below"))
    result = Upscaler(small("pan"), engine=engine, precision="fp32").upscale(Picture(example(), depth=32))
    assert result.notes == ()


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_a_damaged_file_is_one_line(tmp_path, to):
    path = tmp_path / f"a{FORMATS[to].suffix}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(
        CheckpointError, match=r"damaged, or written by another version \(.*\); export it again"
    ) as info:
        FORMATS[to].open(path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("open_graph", "operation", "version", "reason"),
    [(open_onnx, "Relu", 999, "999"), (open_openvino, "OfTheFuture", 18, "Conversion")],
)
def test_a_file_of_another_version_is_one_line(tmp_path, open_graph, operation, version, reason):
    import onnx

    node = onnx.helper.make_node(operation, ["low_res"], ["upscaled"])
    sides = [onnx.helper.make_tensor_value_info(name, 1, [1, 3, None, None]) for name in ("low_res", "upscaled")]
    graph = onnx.helper.make_graph([node], "other", sides[:1], sides[1:])
    path = tmp_path / "a.onnx"
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])
    path.write_bytes(made.SerializeToString())
    with pytest.raises(CheckpointError, match=rf"a.onnx: damaged, or written by .* \(.*{reason}.*\); export") as info:
        open_graph(path)
    assert "\n" not in str(info.value)


def test_a_network_is_measured_in_an_engine(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", lambda scale: PANConfig(scale, channels=8, upsampler_channels=4, num_blocks=1))
    for engine in ("torch", "onnxruntime", "openvino"):
        seconds, peak = REQUESTS["run"]("tiny", 2, 40, 24, engine)
        assert seconds > 0
        assert peak >= 0


def test_commands_take_an_engine(nlsr, tmp_path):
    save_network(tmp_path / "m.safetensors", small())
    (tmp_path / "in").mkdir()
    Image.effect_noise((48, 40), 60).convert("RGB").save(tmp_path / "in" / "a.png")
    model = ("--model", tmp_path / "m.safetensors", "--engine", "onnxruntime")
    code, out, err = nlsr("upscale", tmp_path / "in" / "a.png", *model, "-o", tmp_path / "b.png")
    assert (code, err) == (0, "")
    assert "whole by onnxruntime" in out
    assert nlsr("evaluate", "--data", tmp_path / "in", *model)[0] == 0


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_server_computes_with_an_engine(tmp_path, engine):
    save_network(tmp_path / "small.safetensors", small("pan"))
    Image.radial_gradient("L").resize((40, 30)).convert("RGB").save(tmp_path / "a.png")
    results = []
    for name in ("torch", engine):
        computing = Computing(Settings(models={"small": tmp_path / "small.safetensors"}, engine=name))
        waiting = {"cancelled": threading.Event(), "report": lambda part: None}
        asked = Asked(model="small", precision="fp32")
        done = computing.upscale(tmp_path / "a.png", tmp_path / f"{name}.png", asked, **waiting)
        assert done.error is None
        with Image.open(tmp_path / f"{name}.png") as image:
            results.append(torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).int())
        assert computing.upscaler(asked).engine_name == name
    assert abs(results[0] - results[1]).max() <= 1
