"""The commands that `nlsr benchmark engines` times, none of which runs here."""

import pytest

from nlsr.benchmark.engines import measure
from nlsr.networks import PAN, PANConfig
from nlsr.weights import save_network


def test_commands_import_the_modules_of_the_user(monkeypatch, tmp_path):
    class Started(Exception):
        pass

    def start(words, **_):
        raise Started(words)

    monkeypatch.setattr("nlsr.benchmark.engines.subprocess.Popen", start)
    save_network(tmp_path / "m.safetensors", PAN(PANConfig(2, channels=8, upsampler_channels=4, num_blocks=1)))
    with pytest.raises(Started) as info:
        measure([str(tmp_path / "m.safetensors")], modules=["mine", "ours.too"])
    (words,) = info.value.args
    assert words[1:4] == ["-m", "nlsr", "upscale"]
    assert words[-2:] == ["--import=mine", "--import=ours.too"]
