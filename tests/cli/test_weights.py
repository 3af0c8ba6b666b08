"""nlsr weights: lists, recognises, describes, converts and averages files."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tests.checks.case import Case, published_file
from tests.test_oracles import FOLDER

from nlsr import create
from nlsr.files import sha256
from nlsr.networks import LCoAN, LCoANConfig
from nlsr.weights import find, load, packaged, save_network
from nlsr.weights.checkpoint import read_card, read_tensors


@pytest.fixture
def pan_file(tmp_path):
    return published_file(Case(FOLDER / "pan-net-x3.safetensors"), tmp_path)


def test_list_names_ours_and_the_published_files_in_columns(nlsr, tmp_path, monkeypatch):
    monkeypatch.setenv("NLSR_CACHE", str(tmp_path))
    rows = {
        (row["network"], row["scale"], row["name"]): row for row in json.loads(nlsr("weights", "list", "--json")[1])
    }
    ours = rows["lcoan", 4, "lcoan-light-x4"]
    assert (ours["licence"], len(ours["sha256"])) == ("Apache-2.0", 64)
    assert rows["dlsn", 3, "DLSN_x3.pt"]["sha256"] == "unknown"
    header, *lines = nlsr("weights", "list")[1].splitlines()
    assert header.split() == ["MODEL", "NETWORK", "SCALE", "FILE", "HERE", "LICENCE", "SHA-256", "SOURCE"]
    columns = [header.index(word) for word in header.split()]
    assert len(lines) == len(rows)
    told = {tuple(line[columns[0] : columns[5]].split()) for line in lines}
    assert len(told) == len(lines)
    assert ("smfanet-plus-x4", "smfanet-plus", "x4", "SMFANet_plus_DF2K_100w_x4SR.pth", "get") in told
    assert ("nlsn-x2", "nlsn", "x2", "model_x2.pt", "no") in told
    assert all(line[column - 1] == " " for line in lines for column in columns[1:])


def test_info_describes_packaged_weights_and_recognises_a_copy_of_them(nlsr, tmp_path):
    by_name = json.loads(nlsr("weights", "info", "lcoan-light-x4", "--json")[1])
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(find("lcoan-light-x4").read_bytes())
    by_file = json.loads(nlsr("weights", "info", copy, "--json")[1])
    assert by_file.pop("file") == str(copy)
    by_name.pop("file")
    assert by_file == by_name
    assert (by_name["licence"], by_name["sha256"]) == ("Apache-2.0", sha256(copy))
    lines = [line.strip() for line in nlsr("weights", "info", "lcoan-light-x3")[1].splitlines()]
    assert "recipe.start: runs/lcoan-light-x4-first/lcoan-light-x4-first.safetensors" in lines
    assert "started from.recipe.training.steps: 7400" in lines
    assert "teacher.file: SMFANet_plus_DF2K_100w_x3SR.pth" in lines


def test_detect_says_what_files_hold_and_goes_on_after_one_that_is_foreign(nlsr, tmp_path, pan_file):
    torch.save({"layers.0.weight": torch.zeros(3)}, tmp_path / "foreign.pt")
    code, out, err = nlsr("weights", "detect", tmp_path / "foreign.pt", pan_file, find("lcoan-light-x4"))
    assert code == 1
    assert "foreign.pt: expected a weight file of" in err
    pan, unsaid, ours = out.splitlines()
    assert pan.startswith(f"{pan_file}: pan; channels=")
    assert unsaid.strip().startswith("not in the file, published values unless --set: scale=null")
    assert "lcoan; " in ours


def test_what_was_chosen_between_average_and_last_weights_is_one_line(nlsr, tmp_path, pan_file):
    tensors, _ = read_tensors(pan_file)
    torch.save({"params": tensors, "params_ema": tensors}, tmp_path / "both.pth")
    code, out, err = nlsr("weights", "detect", tmp_path / "both.pth")
    assert (code, len(err.splitlines())) == (0, 1)
    assert err.startswith("weights: ")
    assert err.endswith("both.pth: holds params and params_ema; the average, params_ema, is taken\n")
    assert "both.pth: pan; " in out


def test_convert_writes_a_file_that_gives_the_same_pictures(nlsr, tmp_path, pan_file):
    target = tmp_path / "ours.safetensors"
    code, out, err = nlsr("weights", "convert", pan_file, "-o", target)
    assert (code, out) == (1, "")
    assert "say which: scale=2 or scale=3" in err
    assert nlsr("weights", "convert", pan_file, "-o", target, "--set", "scale=3")[0] == 0
    image = torch.rand(1, 3, 7, 9)
    with torch.inference_mode():
        assert torch.equal(load(target)(image), load(pan_file, scale=3)(image))
    code, _, err = nlsr("weights", "convert", pan_file, "-o", target, "--set", "scale=3")
    assert (code, "exists already" in err) == (2, True)


def test_convert_in_half_precision_takes_half_of_the_space_and_keeps_the_picture(nlsr, tmp_path):
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    network = create("lcoan-light", scale=2, num_groups=1, num_blocks=1)
    save_network(whole, network, card={"steps": 3})
    code, out, _ = nlsr("weights", "convert", whole, "--half", "-o", half)
    assert (code, out) == (0, f"{half}: LCoAN x2, from {whole}\n")
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    assert read_card(half) == {"steps": 3}
    image = torch.rand(1, 3, 7, 9)
    loaded = load(half)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    with torch.inference_mode():
        torch.testing.assert_close(loaded(image), network(image), rtol=0, atol=2e-3)
    assert nlsr("weights", "convert", half, "--half")[0] == 2  # it lies there already


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("info", "nothing"), 2, "no model is named 'nothing'"),
        (("info", "lcoan-light-x4", "--set", "scale"), 2, "--set scale: expected key=value, like scale=2"),
        (("info", "lcoan-light-x4", "--set", "scale=2"), 1, "holds its own config; scale cannot be set"),
        (("convert", "gone.pth"), 2, "expected a weight file, found no such file"),
        (("convert", "."), 2, ".: expected a weight file, found a folder"),
        (("convert", packaged()["lcoan-light-x4"]), 1, "is a file of nlsr already, with its config"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(nlsr, words, code, message):
    exit, _, err = nlsr("weights", *words)
    assert exit == code
    assert message in err
    assert len(err.splitlines()) == 1


def test_average_writes_the_mean_of_networks_of_one_config(nlsr, tmp_path):
    config = LCoANConfig(2, channels=8, num_groups=2, num_blocks=1, num_clusters=4, chunk_size=8)
    networks = [LCoAN(config) for _ in range(3)]
    for index, network in enumerate(networks):
        torch.nn.init.constant_(network.head.bias, float(index**2))
        network.operators()[0].kmeans.idle.fill_(index)
        save_network(tmp_path / f"{index}.safetensors", network, card={"steps": index})
    files = [tmp_path / f"{index}.safetensors" for index in range(3)]
    code, out, err = nlsr("weights", "average", *files, "-o", tmp_path / "mean.safetensors")
    assert (code, err) == (0, "")
    assert "LCoAN x2, the mean of 3" in out
    state = load(tmp_path / "mean.safetensors").state_dict()
    torch.testing.assert_close(state["head.bias"], torch.full((8,), 5 / 3))
    for name, tensor in state.items():
        parts = [network.state_dict()[name] for network in networks]
        expected = sum(parts) / 3 if tensor.is_floating_point() else parts[0]
        torch.testing.assert_close(tensor, expected, msg=name)
    card = json.loads(nlsr("weights", "info", tmp_path / "mean.safetensors", "--json")[1])["card"]
    assert card == {"mean of": [{"steps": 0}, {"steps": 1}, {"steps": 2}]}


def test_average_refuses_other_configs_single_files_and_existing_names(nlsr, tmp_path):
    target = tmp_path / "mean.safetensors"
    code, _, err = nlsr("weights", "average", "lcoan-light-x2", "lcoan-light-x4", "-o", target)
    assert (code, err.count("\n")) == (2, 1)
    assert "expected networks of one config, got LCoANConfig(scale=2" in err
    code, _, err = nlsr("weights", "average", "lcoan-light-x4", "-o", target)
    assert (code, "two networks or more to average, got 1" in err) == (2, True)
    assert not target.exists()
    target.touch()
    code, _, err = nlsr("weights", "average", "lcoan-light-x4", "lcoan-light-x4", "-o", target)
    assert (code, "exists already" in err) == (2, True)


def damaged(path, **metadata):
    """A packaged file with other metadata."""
    tensors, own = read_tensors(packaged()["lcoan-light-x4"])
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, own | metadata)
    return path


@pytest.mark.parametrize(
    ("command", "metadata", "message"),
    [
        ("detect", {"config": "{"}, "the config inside does not fit lcoan"),
        ("detect", {"config": "{}"}, "scale: Field required"),
        ("info", {"config": '{"scale": 4, "channels": -1}'}, "channels: expected a whole number above zero, got -1"),
        ("info", {"config": '{"scale": 4, "share": "some"}'}, "share: expected a valid boolean"),
        ("info", {"card": "{"}, "the training card inside is damaged"),
    ],
)
def test_metadata_that_is_no_config_or_card_is_one_line(nlsr, tmp_path, command, metadata, message):
    code, _, err = nlsr("weights", command, damaged(tmp_path / "a.safetensors", **metadata))
    assert (code, len(err.splitlines())) == (1, 1)
    assert message in err
