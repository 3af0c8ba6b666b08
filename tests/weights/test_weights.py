"""Weight files: what is written is read again, published names are understood, every mismatch is named."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import nlsr
from nlsr.attention import operator_name
from nlsr.errors import CheckpointError, NlsrWarning, UsageError
from nlsr.networks import NLAN, PRESETS, LCoAN, LCoANConfig, NLANConfig, name_of
from nlsr.weights import attentions, looked_into, packaged
from nlsr.weights.checkpoint import FORMAT, read_tensors


def small(**sizes):
    torch.manual_seed(0)
    sizes = dict(channels=8, num_groups=2, num_blocks=1, num_clusters=6, chunk_size=16) | sizes
    return LCoAN(LCoANConfig(3, **sizes)).eval()


def image():
    return torch.rand(1, 3, 9, 8, generator=torch.Generator().manual_seed(0))


def saved(tmp_path, **sizes):
    nlsr.save_network(tmp_path / "w.safetensors", small(**sizes), card={"steps": 7})
    return tmp_path / "w.safetensors"


def published(tmp_path, change=None, wrap=torch.save):
    """A file with the published names of LCoAN: two groups, x2."""
    oracle = load_file(Path(__file__).parents[1] / "oracles" / "lcoan-net_x2.safetensors")
    state = {name.removeprefix("weights."): w for name, w in oracle.items() if name.startswith("weights.")}
    if change:
        change(state)
    wrap(state, tmp_path / "published.pt")
    return tmp_path / "published.pt"


@pytest.mark.parametrize("operator", ["kmeans", "dense", "none"])
def test_a_network_comes_back_as_it_was_saved(tmp_path, operator):
    network = small(operator=operator)
    nlsr.save_network(tmp_path / "w.safetensors", network)
    loaded = nlsr.load(tmp_path / "w.safetensors")
    assert loaded.config == network.config
    assert not loaded.training
    with torch.inference_mode():
        torch.testing.assert_close(loaded(image()), network(image()))


def test_a_file_keeps_how_many_patches_the_attention_joins_in_training(tmp_path):
    network = small()
    network.joined_patches = 3
    for group in network.groups:
        torch.nn.init.normal_(group.attention.values.weight)  # attention starts as the identity
    nlsr.save_network(tmp_path / "w.safetensors", network)
    loaded = nlsr.load(tmp_path / "w.safetensors")
    patches = torch.rand(3, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded.train()(patches), network.train()(patches))
        loaded.joined_patches = 1
        assert not torch.allclose(loaded(patches), network(patches))


def test_what_is_no_network_of_ours_is_not_saved(tmp_path):
    with pytest.raises(UsageError, match=r"expected a network of nlsr .*, got Conv2d"):
        nlsr.save_network(tmp_path / "w.safetensors", torch.nn.Conv2d(1, 1, 1))
    assert list(tmp_path.iterdir()) == []


def test_the_file_says_what_it_holds(tmp_path):
    _, metadata = read_tensors(saved(tmp_path))
    assert (metadata["network"], metadata["scale"]) == ("lcoan", "3")
    assert json.loads(metadata["card"]) == {"steps": 7}
    assert json.loads(metadata["config"])["chunk_size"] == 16


def test_loading_moves_no_random_state(tmp_path):
    path = saved(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    nlsr.load(path)
    assert torch.equal(torch.rand(1), expected)


def test_packaged_weights_are_small_and_have_a_card():
    assert "lcoan-light-x4" in packaged()
    for path in packaged().values():
        _, metadata = read_tensors(path)
        card = json.loads(metadata["card"])
        assert {"data", "steps", "hours", "machine", "psnr"} <= card.keys()
        assert path.stat().st_size <= 4e6


def test_a_published_pickle_is_understood(tmp_path):
    network = nlsr.load(published(tmp_path))
    assert (network.config.channels, network.config.num_groups, network.config.num_blocks) == (32, 2, 2)
    assert (network.scale, network.config.num_clusters, network.config.chunk_size) == (2, 16, 384)


@pytest.mark.parametrize("wrapper", ["params", "params_ema", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_trainers_save_around_a_published_file_is_taken_off(tmp_path, wrapper, prefix):
    def wrap(state, path):
        state = {prefix + name: tensor for name, tensor in state.items()}
        torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)

    assert nlsr.load(published(tmp_path, wrap=wrap)).config.channels == 32


def test_of_average_and_last_weights_the_average_is_taken_and_said(tmp_path):
    def wrap(state, path):
        last = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        torch.save({"params": last, "params_ema": state}, path)

    average = nlsr.load(published(tmp_path))
    with pytest.warns(
        NlsrWarning, match="published.pt: holds params and params_ema; the average, params_ema, is taken"
    ):
        both = nlsr.load(published(tmp_path, wrap=wrap))
    assert torch.equal(both.head.weight, average.head.weight)


def test_several_other_state_dicts_in_one_file_are_named(tmp_path):
    path = published(tmp_path, wrap=lambda state, path: torch.save({"params": state, "model": state}, path))
    with pytest.raises(CheckpointError, match=r"several state dicts \(params, model\)"):
        nlsr.load(path)


@pytest.mark.parametrize("sizes", [{}, {"operator": "hash"}, {"operator": "none"}, {"share": False}])
def test_a_file_says_what_matches_without_its_tensors(tmp_path, sizes):
    path = saved(tmp_path, **sizes)
    assert attentions(path) == [operator_name(operator) for operator in nlsr.load(path).operators()]
    assert len(attentions(path)) == {"none": 0, "hash": 1}.get(sizes.get("operator"), 1 if not sizes else 2)


def test_what_matches_in_a_file_that_does_not_say_it_is_not_known(tmp_path):
    damaged = saved(tmp_path)
    damaged.write_bytes(damaged.read_bytes().replace(b"chunk_size", b"chunk_sixe"))
    (tmp_path / "empty.safetensors").write_bytes(b"")
    for path in (published(tmp_path), damaged, tmp_path / "empty.safetensors", tmp_path / "missing.safetensors"):
        assert attentions(path) is None


@pytest.mark.parametrize("name", PRESETS)
def test_what_matches_is_found_for_every_network(tmp_path, name, monkeypatch):
    network = nlsr.create(name, scale=2)
    config = json.dumps(dataclasses.asdict(network.config))
    metadata = {"format": FORMAT, "network": name_of(network), "config": config}
    monkeypatch.setattr("nlsr.weights.checkpoint.read_metadata", lambda path: metadata)
    assert attentions("any") == [operator_name(operator) for operator in network.operators()]


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ({"lcoan-light-x2": "kmeans", "lcoan-light-x4": "kmeans", "a-x4": "kmeans"}, "lcoan-light"),
        ({"lcoan-light-x4": "none", "a-x4": "none", "b-x2": "hash", "b-x4": "hash", "c-x4": "hash"}, "b"),
        ({"lcoan-light-x4": "none"}, "lcoan-light"),
    ],
)
def test_weights_with_attention_are_looked_into(tmp_path, monkeypatch, inside, expected):
    for name, operator in inside.items():
        nlsr.save_network(tmp_path / f"{name}.safetensors", small(operator=operator))
    for place in ("nlsr.weights", "nlsr.weights.catalogue"):
        monkeypatch.setattr(f"{place}.packaged", lambda: {name: tmp_path / f"{name}.safetensors" for name in inside})
    assert looked_into() == expected


def test_the_name_of_a_family_loads_as_in_the_upscaler():
    upscaler = nlsr.Upscaler()
    assert nlsr.load().config == nlsr.load(nlsr.DEFAULT_MODEL).config == upscaler.models.network(upscaler.scale).config
    assert nlsr.load(nlsr.DEFAULT_MODEL, scale=2).scale == 2
    with pytest.raises(UsageError, match=rf"the model {nlsr.DEFAULT_MODEL} has no scale 7; there is x2, x3, x4"):
        nlsr.load(nlsr.DEFAULT_MODEL, scale=7)


def test_a_setting_that_our_file_says_too_is_no_error(tmp_path):
    path = saved(tmp_path)
    assert nlsr.load(path, scale=3, chunk_size=16).scale == 3
    with pytest.raises(CheckpointError, match="holds its own config; chunk_size cannot be set to 8"):
        nlsr.load(path, chunk_size=8)


def test_a_network_is_loaded_to_a_device(tmp_path):
    path = saved(tmp_path)
    assert {parameter.device.type for parameter in nlsr.load(path, device="meta").parameters()} == {"meta"}
    assert {parameter.device.type for parameter in nlsr.load(path).parameters()} == {"cpu"}
    with pytest.raises(UsageError, match="`device=nosuch`: not available here; try cpu"):
        nlsr.load(path, device="nosuch")


def test_what_a_published_file_does_not_say_can_be_set(tmp_path):
    assert nlsr.load(published(tmp_path), chunk_size=96).config.chunk_size == 96


def drop(name):
    return lambda state: state.pop(name)


def replace(name, tensor):
    return lambda state: state.update({name: tensor})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("body.1.m_conv.0.bias"), r"closest to lcoan, but does not fit: missing 'body.1.m_conv.0.bias' \(32,\)$"),
        (drop("head.0.weight"), r"does not fit: missing 'head.0.weight' \(32, 3, 3, 3\)$"),
        (drop("body.0.local_body.0.body.0.weight"), r"missing 'body.0.local_body.0.body.0.weight' \(32, 32, 3, 3\)$"),
        (drop("body.0.attention.0.conv_match.0.bias"), r"missing 'body.0.attention.0.conv_match.0.bias' \(32,\)$"),
        (drop("tail.1.weight"), r"missing 'tail.1.weight' \(3, 32, 3, 3\)$"),
        (drop("tail.0.0.weight"), r"missing 'tail.0.0.weight' \(128, 32, 3, 3\)$"),
        (replace("extra.weight", torch.zeros(2)), r"does not fit: unexpected 'extra.weight' \(2,\)$"),
        (replace("fuse.weight", torch.zeros(2)), r"does not fit: unexpected 'fuse.weight' \(2,\)$"),
        (replace("m_conv.0.bias", torch.zeros(5)), r"does not fit: 'm_conv.0.bias' is \(5,\), expected \(32,\)$"),
        (
            replace("head.0.weight", torch.zeros(31, 3, 3, 3)),
            r"'head.0.weight' is \(31, 3, 3, 3\), expected \(32, 3, 3, 3\)$",
        ),
        (replace("sub_mean.bias", torch.zeros(3)), "expected 'sub_mean.bias'"),
        (replace("sub_mean.bias", torch.full((3,), -127.5)), r"expected 'sub_mean.bias' \[-.*, got \[-127.5, -127.5"),
        (replace("sub_mean.weight", torch.eye(3).view(3, 3, 1, 1) / 0.2), "'sub_mean.weight' to be the identity"),
        (replace("add_mean.bias", torch.zeros(3)), "expected 'add_mean.bias'"),
        (replace("body.0.attention.0.kmeans.initted", torch.tensor(False)), "never started"),
        (
            lambda state: [state.pop(name) for name in list(state) if "tail" in name],
            "closest to lcoan, but has no tensor",
        ),
    ],
)
def test_a_published_file_that_does_not_fit_is_refused_by_name(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        nlsr.load(published(tmp_path, change))


def test_a_foreign_file_is_refused_with_the_closest_network(tmp_path):
    state = {f"layers.{i}.weight": torch.zeros(2) for i in range(9)} | {"conv_first.weight": torch.zeros(40, 3, 3, 3)}
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(
        CheckpointError, match=r"a weight file of .*lcoan.*; the closest, .*, are atd \(10%\), pan \(10%\), pft"
    ):
        nlsr.load(tmp_path / "other.pth")


RELATIVES = {
    "edsr": "head.0 body.0.body.0 body.0.body.2 body.1 tail.0.0 tail.0.2 tail.1 sub_mean",
    "edsr-basicsr": "conv_first body.0.conv1 body.0.conv2 conv_after_body upsample.0 conv_last",
    "rcan": "head.0 body.0.body.0.body.0 body.0.body.0.body.2 body.0.body.0.body.3.conv_du.0 body.0.body.1 tail.1",
    "rcan-basicsr": "conv_first body.0.residual_group.0.rcab.0 body.0.residual_group.0.rcab.3.attention.1 body.0.conv",
}


@pytest.mark.parametrize("name", RELATIVES)
def test_networks_that_are_almost_ours_are_called_what_they_are(tmp_path, name):
    layers = RELATIVES[name].split()
    state = {f"{layer}.{end}": torch.zeros(8) for layer in layers for end in ("weight", "bias")}
    torch.save(state, tmp_path / "other.pt")
    network = name.split("-")[0].upper()
    with pytest.raises(CheckpointError, match=f"other.pt: holds an {network}; expected a weight file of asid, "):
        nlsr.load(tmp_path / "other.pt")


@pytest.mark.parametrize("oracle", ["lcoan-net_x4", "nlsn-net_x2", "csnln-net_x2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_files_trained_on_values_up_to_255_give_the_pictures_of_their_own_code(tmp_path, oracle, dtype):
    """Their code sees 255 times the image, shifts it by the mean colour, and its output is 255 times the picture: so
    does the loaded network of equal weights that was trained on [0, 1] once its shifts are done by hand."""
    case = load_file(Path(__file__).parents[1] / "oracles" / f"{oracle}.safetensors")
    state = {name.removeprefix("weights."): w.to(dtype) for name, w in case.items() if name.startswith("weights.")}
    torch.save(state, tmp_path / "unit.pt")
    mean = torch.tensor([0.4488, 0.4371, 0.4040])
    state |= {"sub_mean.bias": -255 * mean.to(dtype), "add_mean.bias": 255 * mean.to(dtype)}
    torch.save(state, tmp_path / "255.pt")
    unit, loaded = (nlsr.load(tmp_path / name).double() for name in ("unit.pt", "255.pt"))
    low_res, mean = image().double(), mean.double().view(1, 3, 1, 1)
    with torch.no_grad():
        # `unit` subtracts the mean itself, and adds it.
        expected = (unit(255 * (low_res - mean) + mean) - mean + 255 * mean) / 255
        torch.testing.assert_close(loaded(low_res), expected, atol=1e-6, rtol=0)


def test_a_file_is_no_relative_without_its_blocks(tmp_path):
    """The names of a Real-ESRGAN Compact are those of an EDSR's body, but for the blocks in it."""
    state = {f"body.{index}.{end}": torch.zeros(8) for index in range(5) for end in ("weight", "bias")}
    torch.save(state, tmp_path / "compact.pth")
    with pytest.raises(CheckpointError) as info:
        nlsr.load(tmp_path / "compact.pth")
    assert "EDSR" not in str(info.value)


def test_a_file_of_nlan_is_understood(tmp_path):
    """No file is published; the names are those that its repository's modules would give."""
    torch.manual_seed(0)
    network = NLAN(NLANConfig(3, channels=8, num_groups=2, num_blocks=2, reduction=4))
    names = {"first": "body.0", "second": "body.2", "query": "conv_match1", "key": "conv_match2"}
    state = {}
    for name, tensor in network.state_dict().items():
        parts = name.split(".")
        if parts[0] == "groups":
            inner = {"blocks": parts[3:4], "attention": ["2"], "fuse": ["3"]}[parts[2]]
            rest = {"blocks": [names.get(parts[4], "")] if len(parts) > 4 else [], "fuse": []}.get(parts[2])
            if rest is None:
                rest = [names[parts[4]] if parts[3] == "operator" else "conv_assembly", parts[-2]]
            state[".".join(["body", parts[1], "body", *inner, *rest, parts[-1]])] = tensor
        else:
            ends = {"head": "head.0", "fuse": "body.2", "upsample": {"0": "tail.0.0", "2": "tail.1"}.get(parts[1])}
            state[f"{ends[parts[0]]}.{parts[-1]}"] = tensor
    torch.save(state, tmp_path / "nlan.pt")
    loaded = nlsr.load(tmp_path / "nlan.pt")
    assert loaded.config == network.config
    with torch.inference_mode():
        torch.testing.assert_close(loaded(image()), network.eval()(image()))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [({"window": 3}, "no setting 'window'"), ({"channels": 16}, "the tensors say channels = 32, asked for was 16")],
)
def test_a_wrong_override_is_refused(tmp_path, overrides, message):
    with pytest.raises(CheckpointError, match=message):
        nlsr.load(published(tmp_path), **overrides)


def rewritten(tmp_path, *, tensors=None, **metadata):
    path = saved(tmp_path)
    old_tensors, old_metadata = read_tensors(path)
    if tensors:
        tensors(old_tensors)
    save_file(old_tensors, path, old_metadata | metadata)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(network="other"), "got nlsr-1 and 'other'"),
        (dict(format="nlsr-9"), "got nlsr-9"),
        (dict(config='{"scale": 3, "colour": 1}'), "the config inside does not fit lcoan"),
        (dict(config="{}"), "the config inside does not fit lcoan"),
        (dict(tensors=drop("fuse.bias")), r"missing 'fuse.bias' \(8,\)"),
        (dict(tensors=replace("fuse.bias", torch.zeros(9))), r"'fuse.bias' is \(9,\), expected \(8,\)"),
        (dict(tensors=replace("more", torch.zeros(1))), r"unexpected 'more' \(1,\)"),
    ],
)
def test_our_file_that_does_not_fit_is_refused_by_name(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        nlsr.load(rewritten(tmp_path, **change))


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written"):
        nlsr.save_network(tmp_path / "no" / "w.safetensors", small())
    assert list(tmp_path.iterdir()) == []


def test_pan_at_x2_and_x3_have_equal_tensors_so_that_the_scale_must_be_said(tmp_path):
    oracle = load_file(Path(__file__).parents[1] / "oracles" / "pan-net-x3.safetensors")
    state = {name.removeprefix("weights."): w for name, w in oracle.items() if name.startswith("weights.")}
    torch.save(state, tmp_path / "pan.pth")
    assert nlsr.load(tmp_path / "pan.pth", scale=3).scale == 3
    with pytest.raises(CheckpointError, match="say which: scale=2 or scale=3"):
        nlsr.load(tmp_path / "pan.pth")
