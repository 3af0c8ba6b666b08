"""Engines beside torch: which is chosen, what is refused, and what happens when one fails. Needs no engine."""

import json

import pytest
import torch

from nlsr import Upscaler, create
from nlsr.errors import UsageError
from nlsr.images import Picture
from nlsr.networks import CSNLN, PAN, CSNLNConfig, PANConfig
from nlsr.upscale import engine as engines
from nlsr.upscale.batch import Saving, deciding
from nlsr.upscale.figures import Figure, conditions, fastest, store, stored
from nlsr.upscale.identity import identity


@pytest.fixture(autouse=True)
def installed(monkeypatch, tmp_path):
    """As if all engines were installed, none of which computes; and an empty cache."""
    monkeypatch.setattr("nlsr.extras.find_spec", lambda _: True)
    monkeypatch.setenv("NLSR_CACHE", str(tmp_path / "cache"))


def network():
    return PAN(PANConfig(2, channels=8, upsampler_channels=4, num_blocks=1)).eval()


TORCH, ONNX, OPENVINO = Figure("torch", 2, 1), Figure("onnxruntime", 3, 0.8), Figure("openvino", 9, 0.4)


@pytest.mark.parametrize(
    ("figures", "pictures", "engine"),
    [
        ([], 500, "torch"),
        ([OPENVINO, ONNX, TORCH], 1, "torch"),
        ([OPENVINO, ONNX, TORCH], 10, "onnxruntime"),
        ([OPENVINO, ONNX, TORCH], 500, "openvino"),
        ([Figure("openvino", 2, 1), TORCH], 7, "torch"),
        ([Figure("openvino", 2.1, 0.1), TORCH], 1, "torch"),
        ([Figure("openvino", 2.1, 0.1), TORCH], 2, "openvino"),
        ([Figure("openvino", 1.9, 0.1), TORCH], 1, "openvino"),
        ([Figure("openvino", 1.9, 0.1)], 1, "torch"),
        ([Figure("of the future", 0, 0), TORCH], 7, "torch"),
    ],
)
def test_the_fastest_engine_follows_from_figures_and_number_of_pictures(figures, pictures, engine):
    assert fastest(figures, pictures) == engine


def test_auto_takes_the_figures_of_this_network_and_precision_and_no_others():
    net = network()
    assert Upscaler(net, engine="auto", pictures=500).engine_name == "torch"
    store(conditions(identity(net), "auto"), [TORCH, OPENVINO])
    assert Upscaler(net, engine="auto", pictures=1).engine_name == "torch"
    assert Upscaler(net, engine="auto", pictures=500).engine_name == "openvino"
    assert Upscaler(net, engine="auto", pictures=500, precision="fp32").engine_name == "torch"
    with torch.no_grad():
        net.tail.bias.add_(1)
    assert Upscaler(net, engine="auto", pictures=500).engine_name == "torch"


def test_damaged_figures_are_none():
    known = conditions("a", "fp32")
    path = store(known, [TORCH])
    assert stored(known) == [TORCH]
    for content in ("", "{}", "[1]", json.dumps({"figures": [{"engine": "torch"}]})):
        path.write_text(content)
        assert stored(known) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(engine="tensorrt"), "`engine=tensorrt`: expected auto, torch, onnxruntime, openvino"),
        (
            dict(engine="openvino", device="meta"),
            "`engine=openvino`: computes on the processor; leave out `device=meta`",
        ),
        (dict(engine="onnxruntime", precision="bf16"), "`precision=bf16`: onnxruntime computes in fp32"),
        (dict(engine="openvino", precision="fp16"), "`precision=fp16`: openvino computes in fp32 or bf16"),
    ],
)
def test_what_an_engine_does_not_do_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Upscaler(network(), **options)


def test_bf16_is_refused_where_the_processor_is_not_made_for_it(monkeypatch):
    for made_for_it in (False, True):
        monkeypatch.setattr(engines, "has_fast_bf16", lambda device, it=made_for_it: it)
        if made_for_it:
            assert Upscaler(network(), engine="openvino", precision="bf16").plan(9, 9).precision == "bf16"
        else:
            with pytest.raises(UsageError, match="`precision=bf16`: this processor has no instructions for it"):
                Upscaler(network(), engine="openvino", precision="bf16")


def test_networks_that_an_engine_cannot_run_are_refused_before_a_picture_is_read():
    with pytest.raises(UsageError, match="csnln cannot be exported: its attention CrossScale sums patches"):
        Upscaler(CSNLN(CSNLNConfig(2, channels=8)), engine="openvino")
    with pytest.raises(UsageError, match=r"`engine=onnxruntime`: runs networks of nlsr; .* is a function of your own"):
        Upscaler(lambda image: image, model_scale=1, engine="onnxruntime")


def test_where_an_engine_fails_torch_goes_on_and_a_note_says_so(monkeypatch):
    def failing(self, network, precision, shape):
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setattr(engines.Engine, "_compile", failing)
    net, picture = network(), Picture(torch.rand(1, 3, 40, 30), depth=32)
    result = Upscaler(net, engine="openvino", tile=24).upscale(picture)
    assert result.notes == ("openvino failed on 19x24 pixels (no such kernel): torch went on",)
    torch.testing.assert_close(result.picture.pixels, Upscaler(net, tile=24).upscale(picture).picture.pixels)


def test_memory_that_runs_out_in_an_engine_makes_smaller_tiles(monkeypatch):
    def compiled(self, network, precision, shape):
        def run(low_res):
            if low_res.shape[-1] > 30:
                raise RuntimeError("failed to allocate memory")
            return network(low_res)

        return run

    monkeypatch.setattr(engines.Engine, "_compile", compiled)
    result = Upscaler(network(), engine="onnxruntime").upscale(Picture(torch.rand(1, 3, 40, 40), depth=32))
    assert result.notes == ("memory ran out after 0 of 40 rows: continued in tiles of 20",)


def test_the_memory_of_an_engine_is_counted_and_the_plan_names_it():
    net = network()
    plan, torchs = Upscaler(net, engine="onnxruntime").plan(300, 300), Upscaler(net, precision="fp32").plan(300, 300)
    assert plan.predicted > torchs.predicted + 1.4 * net.bytes_per_pixel() * 300**2
    assert (plan.engine, plan.as_dict()["engine"], torchs.engine) == ("onnxruntime", "onnxruntime", "torch")
    assert "whole by onnxruntime (" in str(plan)


def test_the_weights_of_attentions_are_counted_where_a_graph_holds_them_all():
    """Torch has a fused kernel for them: 3 numbers for each of 4 heads and of 512 keys."""
    net = create("catanet", scale=2, num_centres=(4,), chunk_sizes=(256,), num_steps=(1,), window_sizes=(4,)).eval()
    plans = [Upscaler(net, engine=name, precision="fp32").plan(300, 300) for name in ("torch", "openvino")]
    assert plans[1].predicted > plans[0].predicted + 4 * 3 * 4 * 512 * 300**2


def test_the_engine_belongs_to_what_a_batch_records():
    settings = [deciding(Upscaler(network(), engine=name), Saving()) for name in engines.ENGINES]
    assert [each["engine"] for each in settings] == list(engines.ENGINES)


def test_a_missing_engine_says_how_to_install_it(nlsr, monkeypatch, tmp_path):
    monkeypatch.setattr("nlsr.extras.find_spec", lambda _: None)
    code, _, err = nlsr("upscale", tmp_path / "a.png", "--engine", "openvino")
    assert (code, len(err.splitlines())) == (2, 1)
