"""Files of networks that spandrel knows, with random weights, made by spandrel's own classes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from nlsr import Upscaler, load
from nlsr.errors import CheckpointError, UsageError
from nlsr.networks import ForeignNetwork
from nlsr.weights import foreign, save_network

spandrel = pytest.importorskip("spandrel", reason="needs spandrel: pip install --no-deps 'spandrel>=0.4'")

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")  # of spandrel's own classes


def rrdb():
    from spandrel.architectures.ESRGAN import ESRGAN

    return ESRGAN(num_filters=8, num_blocks=2)


def compact(channels=3, scale=4):
    from spandrel.architectures.Compact import Compact

    return Compact(num_in_ch=channels, num_out_ch=channels, num_feat=8, num_conv=2, upscale=scale)


def span():
    from spandrel.architectures.SPAN import SPAN

    return SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2)


def swinir():
    from spandrel.architectures.SwinIR import SwinIR

    sizes = dict(depths=[2, 2], embed_dim=12, num_heads=[2, 2], mlp_ratio=2)
    return SwinIR(img_size=64, window_size=8, upscale=3, upsampler="pixelshuffledirect", **sizes)


NETWORKS = {"ESRGAN": rrdb, "RealESRGAN Compact": compact, "SPAN": span, "SwinIR": swinir}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NLSR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def saved(module, folder, wrapper="params_ema"):
    with torch.no_grad():
        for parameter in module.parameters():  # so that what it makes of a picture is not all black
            parameter.mul_(0.5)
    path = folder / "foreign.pth"
    torch.save({wrapper: module.state_dict()}, path)
    return path


def own_output(path, pixels):
    """What spandrel itself makes of an image."""
    with torch.no_grad():
        return spandrel.ModelLoader().load_from_file(path).eval()(pixels)


@pytest.mark.parametrize("size", [(1, 1), (7, 10), (40, 33)])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_gives_what_its_own_class_makes_of_it(tmp_path, name, size):
    path = saved(NETWORKS[name](), tmp_path)
    network = load(path)
    pixels = torch.rand(2, 3, *size)
    with torch.no_grad():
        upscaled = network(pixels)
    assert network.config.architecture == name
    assert upscaled.shape == (2, 3, *(network.scale * side for side in size))
    for index in range(2):
        torch.testing.assert_close(upscaled[index : index + 1], own_output(path, pixels[index : index + 1]))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_command_enlarges_with_a_file(nlsr, tmp_path, name):
    path = saved(NETWORKS[name](), tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    code, _, err = nlsr("upscale", tmp_path / "a.png", "--model", path, "-o", tmp_path / "b.png")
    assert (code, err) == (0, "")
    expected = own_output(path, torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    with Image.open(tmp_path / "b.png") as result:
        actual = torch.from_numpy(np.array(result)).permute(2, 0, 1)[None].float()
    torch.testing.assert_close(actual, (255 * expected).round(), atol=1, rtol=0)


def test_a_network_of_scale_1_restores_and_does_not_enlarge(nlsr, tmp_path):
    path = saved(compact(scale=1), tmp_path)
    Image.new("RGB", (21, 13), "red").save(tmp_path / "a.png")
    assert nlsr("upscale", tmp_path / "a.png", "--model", path)[0] == 0
    with Image.open(tmp_path / "a_x1.png") as result:
        assert result.size == (21, 13)
    pixels = torch.rand(1, 3, 9, 11)
    torch.testing.assert_close(Upscaler(path)(pixels), own_output(path, pixels))
    assert Upscaler(path, width=5)(pixels).shape == (1, 3, 4, 5)
    code, _, err = nlsr("upscale", tmp_path / "a.png", "--model", path, "--scale", "2")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "this model does not enlarge; got x2" in err


def test_a_grey_network_sees_the_channels_one_by_one(tmp_path):
    path = saved(compact(channels=1), tmp_path)
    pixels = torch.rand(1, 3, 9, 11)
    expected = torch.cat([own_output(path, pixels[:, channel : channel + 1]) for channel in range(3)], dim=1)
    torch.testing.assert_close(load(path)(pixels).detach(), expected)
    grey = pixels[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(load(path)(grey).detach(), expected[:, :1].expand(-1, 3, -1, -1))


def test_a_network_of_four_channels_sees_opaque_pixels_and_gives_colours(tmp_path):
    path = saved(compact(channels=4), tmp_path)
    pixels = torch.rand(1, 3, 9, 11)
    expected = own_output(path, torch.cat((pixels, torch.ones(1, 1, 9, 11)), dim=1))[:, :3]
    torch.testing.assert_close(load(path)(pixels).detach(), expected)


def test_other_channels_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="expected a network of 1, 3 or 4 channels, got 2 in and 2 out"):
        load(saved(compact(channels=2), tmp_path))


def test_sizes_that_a_network_needs_are_made_and_undone(tmp_path):
    from spandrel.architectures.SAFMN import SAFMN

    path = saved(SAFMN(dim=8, n_blocks=1, upscaling_factor=2), tmp_path)
    assert spandrel.ModelLoader().load_from_file(path).size_requirements.multiple_of == 8
    for size in ((10, 10), (3, 17)):
        pixels = torch.rand(1, 3, *size)
        torch.testing.assert_close(load(path)(pixels).detach(), own_output(path, pixels), atol=1e-5, rtol=1e-4)


def test_a_network_that_needs_multiples_of_128_and_squares_takes_every_picture(nlsr, tmp_path):
    from spandrel.architectures.Uformer import Uformer

    path = saved(Uformer(img_size=128, embed_dim=8, depths=[1] * 9, num_heads=[1] * 9), tmp_path)
    sizes = spandrel.ModelLoader().load_from_file(path).size_requirements
    assert (sizes.multiple_of, sizes.square) == (128, True)
    pixels = np.random.default_rng(0).integers(0, 256, (10, 13, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    code, _, err = nlsr("upscale", tmp_path / "a.png", "--model", path, "-o", tmp_path / "b.png")
    assert (code, err) == (0, "")
    expected = own_output(path, torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    with Image.open(tmp_path / "b.png") as result:
        actual = torch.from_numpy(np.array(result)).permute(2, 0, 1)[None].float()
    torch.testing.assert_close(actual, (255 * expected).round(), atol=1, rtol=0)


def test_half_precision_is_what_the_descriptor_says_and_only_when_asked(tmp_path):
    path = saved(swinir(), tmp_path)
    assert Upscaler(path).plan(20, 20).precision == "fp32"
    assert Upscaler(path, precision="bf16").plan(20, 20).precision == "bf16"
    with pytest.raises(UsageError, match="`precision=fp16`: this model is not made for it; take fp32 or bf16"):
        Upscaler(path, precision="fp16")


def test_the_need_of_memory_is_measured_once_for_each_content(tmp_path, monkeypatch, cache):
    path = saved(rrdb(), tmp_path)
    first = load(path).bytes_per_pixel()
    (record,) = (cache / "memory").iterdir()
    assert json.loads(record.read_text())["bytes_per_pixel"] == first
    monkeypatch.setattr(foreign, "_measured", lambda *_: pytest.fail("measured again"))
    copy = tmp_path / "copy.pth"
    copy.write_bytes(path.read_bytes())
    assert load(copy).bytes_per_pixel() == first


def test_the_need_is_that_of_the_largest_maps(tmp_path):
    """The last convolutions of an ESRGAN at x4 read and write 8 channels at 16 pixels each; one copy may be made."""
    one_map = 8 * 16 * 4
    assert 2 * one_map <= load(saved(rrdb(), tmp_path)).bytes_per_pixel() <= 4 * one_map


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NLSR_CACHE", str(tmp_path / "file" / "below"))
    assert isinstance(load(saved(compact(), tmp_path)), ForeignNetwork)


def test_a_file_that_nobody_knows_names_the_closest(tmp_path):
    torch.save({f"layers.{i}.weight": torch.zeros(2) for i in range(3)}, tmp_path / "other.pth")
    with pytest.raises(
        CheckpointError,
        match=r"; none of them knows any of its names; it begins with .*; spandrel does not know it either$",
    ):
        load(tmp_path / "other.pth")


def test_a_file_that_spandrel_misunderstands_is_one_line(tmp_path):
    state = compact().state_dict()
    del state["body.2.bias"]
    torch.save(state, tmp_path / "damaged.pth")
    with pytest.raises(
        CheckpointError, match=r"damaged.pth: spandrel cannot build its network \(RuntimeError: Error"
    ) as info:
        load(tmp_path / "damaged.pth")
    assert "\n" not in str(info.value)


def test_a_network_that_fails_on_pictures_is_one_line(nlsr, tmp_path):
    from spandrel.architectures.SCUNet import SCUNet

    path = saved(SCUNet(in_nc=3, config=[1] * 7, dim=16), tmp_path)  # it has heads of 32
    Image.new("RGB", (10, 10), "green").save(tmp_path / "a.png")
    code, _, err = nlsr("upscale", tmp_path / "a.png", "--model", path)
    assert (code, len(err.splitlines())) == (1, 1)
    assert "its network, SCUNet, fails on a picture of 64x64 (EinopsError: " in err


def test_commands_describe_a_foreign_file_and_none_saves_it(nlsr, tmp_path):
    path = saved(compact(), tmp_path)
    code, out, err = nlsr("weights", "detect", path)
    assert (code, err) == (0, "")
    assert "RealESRGAN Compact; scale=4" in out
    facts = json.loads(nlsr("weights", "info", path, "--json")[1])
    assert (facts["kind"], facts["network"], facts["scale"]) == ("spandrel", "RealESRGAN Compact", 4)
    code, _, err = nlsr("weights", "convert", path)
    assert (code, len(err.splitlines())) == (2, 1)
    with pytest.raises(UsageError, match="RealESRGAN Compact is not built by nlsr and cannot be saved; keep its own"):
        save_network(tmp_path / "a.safetensors", load(path))


def test_explain_and_batches_take_a_foreign_file(nlsr, tmp_path):
    path = saved(compact(), tmp_path)
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (20, 18), "green").save(tmp_path / "in" / f"{name}.png")
    assert nlsr("upscale", tmp_path / "in", "-o", tmp_path / "out", "--model", path)[0] == 0
    assert sorted(file.name for file in (tmp_path / "out").glob("*.png")) == ["a.png", "b.png"]
    steps = ("--steps", "2", "--attribution-region", "16")
    code, _, err = nlsr("explain", tmp_path / "in" / "a.png", "--at", "9,9", "--model", path, *steps)
    assert (code, err) == (0, "")
