"""Files that are none of ours, where spandrel is missing, too old, or cannot be imported."""

import sys

import pytest
import torch

import nlsr
from nlsr.errors import CheckpointError, UsageError
from nlsr.live_memory import LiveMemory
from nlsr.weights import foreign
from nlsr.weights.foreign import matching_torchvision


@pytest.fixture
def unknown(tmp_path):
    torch.save({f"layers.{i}.weight": torch.zeros(2) for i in range(3)}, tmp_path / "other.pth")
    return tmp_path / "other.pth"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """installed("0.4.2", "code of its module"): a spandrel of this version."""
    for name in [name for name in sys.modules if name.split(".")[0] == "spandrel"]:
        monkeypatch.delitem(sys.modules, name)

    def install(version, code):
        (tmp_path / "site" / f"spandrel-{version}.dist-info").mkdir(parents=True)
        metadata = tmp_path / "site" / f"spandrel-{version}.dist-info" / "METADATA"
        metadata.write_text(f"Metadata-Version: 2.1\nName: spandrel\nVersion: {version}\n")
        (tmp_path / "site" / "spandrel.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path / "site")

    yield install
    sys.modules.pop("spandrel", None)


def test_without_spandrel_the_message_says_that_it_could_be_installed(unknown, monkeypatch):
    monkeypatch.setattr(foreign, "is_installed", lambda: False)
    with pytest.raises(
        CheckpointError,
        match=r"none of them knows any of its names; .*; spandrel knows many more networks: .*install.*spandrel",
    ):
        nlsr.load(unknown)


def test_a_spandrel_that_is_too_old_is_named(unknown, installed):
    installed("0.3.4", "raise AssertionError('imported')")
    with pytest.raises(UsageError, match=r"expected spandrel 0.4 or newer, found 0.3.4; run: .*install.*spandrel"):
        nlsr.load(unknown)


@pytest.mark.parametrize(
    "code",
    [
        "raise RuntimeError('operator torchvision::nms does not exist')",
        "raise OSError('site-packages/torchvision/_C.so: undefined symbol: _ZN3c1017RegisterOperators')",
        "import torchvision_that_is_not_there",
    ],
)
def test_a_torchvision_that_is_missing_or_does_not_match_names_the_matching_one(unknown, installed, code):
    installed("0.4.2", code)
    minor = int(torch.__version__.split(".")[1])
    with pytest.raises(UsageError, match=rf"torchvision.*; run: .*install \"torchvision==0.{minor + 15}.\*\"") as info:
        nlsr.load(unknown)
    assert "\n" not in str(info.value)


def test_another_failure_of_spandrel_is_one_line(unknown, installed):
    installed("0.4.2", "raise ImportError('no module\\nnamed einops')")
    with pytest.raises(
        UsageError, match=r"^spandrel 0.4.2 cannot be imported \(ImportError: no module named einops\)$"
    ):
        nlsr.load(unknown)


@pytest.mark.parametrize(
    ("torch_version", "command"),
    [
        ("2.13.0+cpu", '"torchvision==0.28.*" --index-url https://download.pytorch.org/whl/cpu'),
        ("2.6.0+cu124", '"torchvision==0.21.*" --index-url https://download.pytorch.org/whl/cu124'),
        ("2.9.1", '"torchvision==0.24.*"'),
        ("2.11.0+gitabc", '"torchvision==0.26.*"'),
    ],
)
def test_each_torch_has_its_torchvision(torch_version, command):
    """The pairs are those of the table in torchvision's README."""
    assert matching_torchvision(torch_version).endswith(f"install {command}")


@torch.no_grad()
def test_live_memory_counts_what_is_alive_at_once():
    image = torch.zeros(1, 4, 10, 10)
    size = 4 * 4 * 100
    with LiveMemory() as chain:
        first = image + 1
        second = first + 1
        del first
        third = second + 1
        del second
        del third
    assert chain.peak == 2 * size
    with LiveMemory() as view:
        whole = image + 1
        whole[:, :2].relu_()
    assert view.peak == size


def test_weights_larger_than_the_memory_are_refused_before_they_are_read(nlsr, tmp_path, monkeypatch):
    torch.save({"body.weight": torch.zeros(600_000)}, tmp_path / "large.pth")
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was read"))
    words = ("upscale", tmp_path / "a.png", "--model", tmp_path / "large.pth", "--memory", "1MiB")
    code, _, err = nlsr(*words)
    assert (code, len(err.splitlines())) == (2, 1)
    assert err.endswith("large.pth: the weights alone take 3 MiB, --memory allows 1 MiB\n")
