"""Folders by Hugging Face's convention, without a network."""

import json

import pytest
import torch

import nlsr
from nlsr.errors import CheckpointError
from nlsr.networks import LCoAN, LCoANConfig

pytest.importorskip("huggingface_hub", reason="needs the extra hub")


@pytest.fixture
def model():
    from nlsr.hub import HubModel

    config = LCoANConfig(3, channels=8, num_groups=2, num_blocks=1, num_clusters=4, chunk_size=16)
    return HubModel(LCoAN(config)).eval()


@torch.no_grad()
def test_a_network_comes_back_from_the_folder_it_was_saved_in(model, tmp_path):
    from nlsr.hub import HubModel

    model.save_pretrained(tmp_path / "folder")
    image = torch.rand(1, 3, 9, 7)
    loaded = HubModel.from_pretrained(str(tmp_path / "folder"))
    assert not loaded.training
    assert loaded.network.config == model.network.config
    torch.testing.assert_close(loaded(image), model(image))
    torch.testing.assert_close(nlsr.load(tmp_path / "folder" / "model.safetensors")(image), model(image))


def test_the_folder_says_what_it_holds(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["architecture"], config["scale"], config["config"]["channels"]) == ("lcoan", 3, 8)
    card = (tmp_path / "README.md").read_text()
    assert "library_name: nlsr" in card
    assert "super-resolution" in card


def test_push_sends_the_folder_that_save_writes(model, monkeypatch):
    sent = {}

    class Api:
        def __init__(self, *_, **__):
            pass

        def create_repo(self, repo_id, **_):
            return type("Url", (), {"repo_id": repo_id})()

        def upload_folder(self, *, repo_id, folder_path, **_):
            sent[repo_id] = sorted(file.name for file in folder_path.iterdir())

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    model.push_to_hub("someone/lcoan-x3")
    assert sent == {"someone/lcoan-x3": ["README.md", "config.json", "model.safetensors"]}


def test_a_folder_without_our_file_is_one_line(tmp_path):
    from nlsr.hub import HubModel

    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"model.safetensors: expected a weight file, found no such file"):
        HubModel.from_pretrained(str(tmp_path))


def test_telemetry_is_off():
    from huggingface_hub import constants

    import nlsr.hub  # noqa: F401

    assert constants.HF_HUB_DISABLE_TELEMETRY
