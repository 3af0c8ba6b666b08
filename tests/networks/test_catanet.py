"""CATANet: sizes, sharing, learning, published layout."""

import dataclasses
import weakref

import pytest
import torch
from safetensors.torch import save_file
from tests.tolerances import assert_close

import nlsr
from nlsr.attention.grouped import EveryKey, GroupAffinity
from nlsr.attention.overlapping_window import OverlappingWindow
from nlsr.attention.token_aggregation import TokenAggregation
from nlsr.errors import CheckpointError, ShapeError
from nlsr.live_memory import bytes_per_pixel
from nlsr.networks.catanet import CATANet, CATANetConfig, catanet, catanet_shared

SIZES = dict(
    channels=8,
    width=6,
    hidden=12,
    heads=2,
    num_centres=(5, 5),
    chunk_sizes=(12, 12),
    num_steps=(2, 3),
    window_sizes=(5, 8),
)


def small(scale=2, **sizes):
    torch.manual_seed(0)
    return CATANet(CATANetConfig(scale, **(SIZES | sizes))).eval()


def image(batch, height, width, dtype=torch.float32):
    return torch.rand(batch, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("config", "counted"),
    [(catanet(1), 419_675), (catanet(2), 477_435), (catanet(3), 549_635), (catanet(4), 535_195)],
)
def test_published_networks_have_the_counted_parameters(config, counted):
    with torch.device("meta"):
        assert sum(p.numel() for p in CATANet(config).parameters()) == counted


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (6, 17), (9, 9), (15, 21)])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_every_size_is_enlarged_by_the_scale_equally_in_equal_calls(scale, size, share):
    network = small(scale, share=share)
    with torch.inference_mode():
        first, second = network(image(2, *size)), network(image(2, *size))
    assert first.shape == (2, 3, scale * size[0], scale * size[1])
    assert first.isfinite().all()
    assert torch.equal(first, second)


@pytest.mark.parametrize("share", [True, False])
def test_an_image_alone_and_in_a_batch_gives_the_same(share):
    network, images = small(share=share), image(3, 11, 9)
    with torch.inference_mode():
        assert_close(torch.cat([network(one[None]) for one in images]), network(images))


def test_of_small_maps_nothing_is_lost_unless_as_published():
    """Sides between half a window and a window: the published network forgets all but the last rows."""
    low_res = image(1, 6, 6)
    with torch.inference_mode():
        mended = small(window_sizes=(8, 8))(low_res)
        published = small(window_sizes=(8, 8), overlap_average="published")(low_res)
        assert not torch.allclose(mended, published, atol=1e-3)
        large = image(1, 20, 20)
        equal = [small(window_sizes=(8, 8), overlap_average=average)(large) for average in ("coverage", "published")]
    assert torch.equal(*equal)


def test_what_is_shared_is_matched_once_and_windows_in_every_block():
    operators = small(share=True).operators()
    assert [type(operator) for operator in operators] == [TokenAggregation, OverlappingWindow, OverlappingWindow]
    for share, count in ((True, 3), (False, 4)):
        network = small(share=share)
        affinities = network.trace(image(2, 9, 7)).affinities
        assert len(affinities) == len(network.operators()) == count


@pytest.mark.parametrize("share", [True, False])
def test_stored_and_recomputed_traces_agree_in_values_and_gradients(share):
    results = []
    for keep in ("stored", "recomputed"):
        network = small(share=share).double()
        upscaled = network.trace(image(2, 10, 7, torch.float64), keep=keep).upscaled
        upscaled.square().sum().backward()
        results.append([upscaled, *(parameter.grad for parameter in network.parameters())])
    for stored, recomputed in zip(*results, strict=True):
        assert_close(stored, recomputed, factor=10)


@pytest.mark.parametrize("share", [True, False])
def test_training_reaches_every_parameter_and_then_the_centres_learn(share):
    network = small(share=share).train()
    trace = network.trace(image(2, 10, 7))
    trace.upscaled.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    centres = network.blocks[0].aggregation.operator.centres
    assert not centres.initialised
    network.learn(network.observe(trace), generator=torch.Generator())
    assert centres.initialised
    assert_close(centres.means, trace.affinities[0].centres.detach())


@torch.no_grad()
def test_upscaling_forgets_an_affinity_before_the_next_is_matched(monkeypatch):
    alive, most = weakref.WeakSet(), []
    begin = GroupAffinity.__init__

    def noted(self, layout, *inputs, **options):
        if not isinstance(layout, EveryKey):  # which belongs to the one before
            most.append(len(alive))
            alive.add(self)
        begin(self, layout, *inputs, **options)

    monkeypatch.setattr(GroupAffinity, "__init__", noted)
    small()(image(1, 9, 8))
    assert most == [0, 0, 0, 0]


def test_what_is_shared_takes_less_memory_than_its_weights_would():
    """Kept are queries and keys, and not the weights of two chunks and of the centres for each head."""
    sizes = dict(channels=16, width=16, hidden=16, heads=4, num_centres=(64, 64), chunk_sizes=(64, 64))
    device = torch.device("cpu")
    own, shared = (bytes_per_pixel(small(share=share, **sizes), (24, 32), device=device) for share in (False, True))
    assert shared - own < 4 * 4 * (2 * 64 + 64) / 2


def published(scale=2, blocks=2, channels=16, width=12, hidden=24, centres=(6, 8)):
    """Names and shapes as the published files have them."""

    def convolution(name, out, inside, kernel=3):
        return {f"{name}.weight": (out, inside, kernel, kernel), f"{name}.bias": (out,)}

    def feed_forward(norm, name):
        return {
            f"{norm}.weight": (channels,),
            f"{norm}.bias": (channels,),
            f"{name}.fc1.weight": (hidden, channels),
            f"{name}.fc1.bias": (hidden,),
            f"{name}.fc2.weight": (channels, hidden),
            f"{name}.fc2.bias": (channels,),
            **convolution(f"{name}.dwconv.depthwise_conv.0", hidden, 1, 5),
        }

    shapes = convolution("first_conv", channels, 3) | convolution("last_conv", 3, channels)
    enlarging = {1: [], 2: ["upconv"], 3: ["upconv"], 4: ["upconv1", "upconv2"]}[scale]
    for name in enlarging:
        shapes |= convolution(name, channels * (9 if scale == 3 else 4), channels)
    for index in range(blocks):
        tab, local = f"blocks.{index}.0.", f"blocks.{index}.1.layer."
        shapes |= convolution(f"mid_convs.{index}", channels, channels)
        shapes |= {f"{tab}means": (centres[index], channels), f"{tab}initted": ()}
        shapes |= {f"{tab}norm.weight": (channels,), f"{tab}norm.bias": (channels,)}
        shapes |= {f"{tab}conv1x1.weight": (channels, channels, 1, 1)}
        shapes |= feed_forward(f"{tab}mlp.norm", f"{tab}mlp.fn") | feed_forward(f"{local}1.norm", f"{local}1.fn")
        shapes |= {f"{local}0.norm.weight": (channels,), f"{local}0.norm.bias": (channels,)}
        for name, out in {"to_q": width, "to_k": width, "to_v": channels, "proj": channels}.items():
            shapes |= {f"{tab}iasa_attn.{name}.weight": (out, channels), f"{local}0.fn.{name}.weight": (out, channels)}
        for name, out in {"to_k": width, "to_v": channels}.items():
            shapes |= {f"{tab}irca_attn.{name}.weight": (out, channels)}
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return tensors | {name: torch.tensor(True) for name in shapes if name.endswith("initted")}


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_published_file_fills_the_network_it_holds(tmp_path, scale):
    tensors = published(scale)
    save_file(tensors, tmp_path / "published.safetensors")
    unsaid = dict(heads=2, chunk_sizes=(24, 16), window_sizes=(8, 10), num_steps=(3, 3))
    network = nlsr.load(tmp_path / "published.safetensors", **unsaid)
    assert network.config == CATANetConfig(scale, 16, 12, 24, num_centres=(6, 8), **unsaid)
    block = network.blocks[1]
    assert torch.equal(block.aggregation.centre_key.weight, tensors["blocks.1.0.irca_attn.to_k.weight"])
    assert torch.equal(block.aggregation.operator.centres.means, tensors["blocks.1.0.means"])
    assert torch.equal(block.local.project.weight, tensors["blocks.1.1.layer.0.fn.proj.weight"])


def test_a_file_of_the_published_size_needs_no_word(tmp_path):
    tensors = published(4, 8, 40, 36, 96, catanet(4).num_centres)
    torch.save({"params": tensors}, tmp_path / "x4.pth")
    assert nlsr.load(tmp_path / "x4.pth").config == catanet(4)


def test_a_file_whose_centres_never_learned_is_refused(tmp_path):
    tensors = published() | {"blocks.1.0.initted": torch.tensor(False)}
    save_file(tensors, tmp_path / "published.safetensors")
    with pytest.raises(CheckpointError, match="never started"):
        nlsr.load(
            tmp_path / "published.safetensors", heads=2, chunk_sizes=(24, 16), window_sizes=(8, 10), num_steps=(3, 3)
        )


def test_a_shared_network_comes_back_as_it_was_saved(tmp_path):
    network = small(share=True)
    nlsr.save_network(tmp_path / "w.safetensors", network)
    loaded = nlsr.load(tmp_path / "w.safetensors")
    assert loaded.config == network.config
    with torch.inference_mode():
        assert torch.equal(loaded(image(1, 9, 7)), network(image(1, 9, 7)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (catanet(5), "expected a scale of 1, 2, 3 or 4, got 5"),
        (dataclasses.replace(catanet(2), heads=3), "heads that divide 40 channels, got 3"),
        (
            dataclasses.replace(catanet(2), window_sizes=(16,)),
            "got 8 num_centres, 8 chunk_sizes, 8 num_steps, 1 window",
        ),
        (dataclasses.replace(catanet(2), share=True), "expected one number in num_centres and one in chunk_sizes"),
    ],
)
def test_what_does_not_fit_is_said(config, message):
    with pytest.raises(ShapeError, match=message):
        CATANet(config)


def test_the_shared_preset_has_one_grouping():
    with torch.device("meta"):
        network = CATANet(catanet_shared(4))
    assert sum(isinstance(operator, TokenAggregation) for operator in network.operators()) == 1
