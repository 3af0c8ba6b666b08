"""ASID: sizes, padding, sharing, published layout."""

import pytest
import torch
from safetensors.torch import save_file
from tests.tolerances import assert_close
from torch.nn import functional as F

import nlsr
from nlsr.attention import Affinity
from nlsr.errors import CheckpointError, ShapeError
from nlsr.networks.asid import ASID, ASIDConfig, asid, asid_d8


def small(scale=2, **sizes):
    torch.manual_seed(0)
    network = ASID(ASIDConfig(scale, **(dict(channels=8) | sizes)))
    with torch.no_grad():
        for operator in network.operators():  # starts at zero; here it should matter
            operator.offset_bias.normal_()
    return network.eval()


def image(batch, height, width, dtype=torch.float32):
    return torch.rand(batch, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("config", "counted"),
    [
        (asid(2), 297_516),
        (asid(3), 304_011),
        (asid(4), 313_104),
        (asid_d8(2), 732_146),
        (asid_d8(3), 738_641),
        (asid_d8(4), 747_734),
    ],
)
def test_published_networks_have_the_counted_parameters(config, counted):
    with torch.device("meta"):
        assert sum(p.numel() for p in ASID(config).parameters()) == counted


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 17), (9, 9), (12, 30)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_every_size_is_enlarged_by_the_scale_equally_in_equal_calls(scale, size):
    network = small(scale)
    with torch.inference_mode():
        first, second = network(image(2, *size)), network(image(2, *size))
    assert first.shape == (2, 3, scale * size[0], scale * size[1])
    assert first.isfinite().all()
    assert torch.equal(first, second)


@pytest.mark.parametrize(("size", "padded"), [((1, 8), (16, 16)), ((9, 16), (16, 16)), ((17, 5), (24, 16))])
@pytest.mark.parametrize("signed", [True, False])
def test_an_image_is_continued_by_what_the_network_sees_as_zero(size, padded, signed):
    network, small_image = small(signed=signed), image(1, *size)
    grey = 0.5 if signed else 0.0
    larger = F.pad(small_image, (0, padded[1] - size[1], 0, padded[0] - size[0]), value=grey)
    with torch.inference_mode():
        expected = network(larger)[:, :, : 2 * size[0], : 2 * size[1]]
        assert torch.equal(network(small_image), expected)


def test_signed_networks_see_and_give_values_from_minus_one_to_one():
    low_res = image(1, 16, 16, torch.float64)
    with torch.inference_mode():
        unsigned = small(signed=False).double()(2 * low_res - 1)
        assert_close(small().double()(low_res), (unsigned + 1) / 2)


def test_an_image_alone_and_in_a_batch_gives_the_same():
    network, images = small(), image(3, 11, 9)
    with torch.inference_mode():
        together = network(images)
        alone = torch.cat([network(one[None]) for one in images])
    assert_close(alone, together, factor=3)


def test_six_affinities_are_matched_once_by_the_operators_in_order_and_shared_by_all_groups():
    network = small(num_groups=4)
    matched = []
    for operator in network.operators():
        match = operator.match_embedded

        def recorded(*inputs, operator=operator, match=match, **options):
            affinity = match(*inputs, **options)
            matched.append((operator, affinity))
            return affinity

        operator.match_embedded = recorded
    trace = network.trace(image(2, 9, 20))
    assert [operator for operator, _ in matched] == network.operators()
    assert [affinity for _, affinity in matched] == list(trace.affinities)
    assert [operator.groups_are for operator in network.operators()] == ["windows", "grids"] * 3
    assert all(affinity.num_queries == 16 * 24 for affinity in trace.affinities)
    network.learn(network.observe(trace), generator=torch.Generator())


@pytest.mark.parametrize("keep", ["stored", "recomputed"])
def test_gradients_equal_those_of_plain_matrices_in_every_group(keep):
    """Each affinity as one dense matrix, aggregated by torch alone."""

    class Plain(Affinity):
        def __init__(self, affinity):
            super().__init__(affinity.num_queries, size=(affinity.height, affinity.width))
            self.matrix = affinity.dense()

        def aggregate(self, values):
            return self.matrix @ values

        def rows(self, queries):
            return self.matrix[:, queries]

    def gradients(wrap):
        network = small().double()
        for operator in network.operators():
            match = operator.match_embedded
            operator.match_embedded = lambda *inputs, match=match, **options: wrap(match(*inputs, **options))
        network.trace(image(2, 10, 7, torch.float64), keep=keep).upscaled.square().sum().backward()
        return [parameter.grad for parameter in network.parameters()]

    for ours, expected in zip(gradients(lambda affinity: affinity), gradients(Plain), strict=True):
        assert_close(ours, expected, factor=100)


def test_bfloat16_stays_close_to_float32():
    low_res = image(1, 16, 24)
    with torch.inference_mode():
        expected = small()(low_res)
        rounded = small().bfloat16()(low_res.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert_close(rounded, expected.bfloat16(), factor=2)


def published(num_groups=3, channels=48, scale=4):
    """Names and shapes as the published files have them."""
    part, width = channels // 4, max(channels // 4, 16)

    def convolution(name, out, inside, kernel=1):
        return {f"{name}.weight": (out, inside, kernel, kernel), f"{name}.bias": (out,)}

    shapes = {
        **convolution("input", channels, 3, 3),
        **convolution("output", channels, channels, 3),
        **convolution("up.0", 3 * scale**2, channels, 3),
    }
    for index in range(num_groups):
        block = f"block{index}."
        inside = block + ("residual_layer.0." if index == 0 else "residual_layer.")
        shapes |= convolution(f"{block}res_end", channels, channels)
        for name, sizes in {"conv1": (width, channels), "conv_f": (width, width), "conv4": (channels, width)}.items():
            shapes |= convolution(f"{block}esa.{name}", *sizes)
        for name in ("conv2", "conv3"):
            shapes |= convolution(f"{block}esa.{name}", width, width, 3)
        for i in range(3):
            whole, inner = channels - i * part, channels - (i + 1) * part
            local = f"{inside}LB{i + 1}.net.fn."
            shapes |= convolution(f"{local}0", whole, whole) | convolution(f"{local}5", whole, whole)
            shapes |= convolution(f"{local}2", whole, 1, 3)
            shapes |= {f"{local}4.gate.1.weight": (whole // 4, whole), f"{local}4.gate.3.weight": (whole, whole // 4)}
            joined = channels if i == 2 else whole
            shapes |= convolution(f"{inside}pw{i + 1}", joined, joined)
            for kind in ("SLA", "SGA"):
                layer = f"{inside}{kind}{i + 1}."
                for norm in ("norm", "cnorm"):
                    shapes |= {f"{layer}{norm}.weight": (inner,), f"{layer}{norm}.bias": (inner,)}
                if index == 0:
                    shapes |= {f"{layer}attn.to_qkv.weight": (3 * inner, inner)}
                    shapes |= {f"{layer}attn.rel_pos_bias.weight": (225, 1)}
                else:
                    shapes |= {f"{layer}attn.to_v.weight": (inner, inner)}
                shapes |= {f"{layer}attn.to_out.0.weight": (inner, inner)} | feed_forward(f"{layer}gfn.", inner)
        for i in (1, 2):
            block_c = f"{inside}BlockC."
            for norm in (f"canorm{i}", f"cnorm{i}"):
                shapes |= {f"{block_c}{norm}.weight": (channels,), f"{block_c}{norm}.bias": (channels,)}
            shapes |= feed_forward(f"{block_c}gfn{i}.", channels)
            shapes |= {
                f"{block_c}cttn{i}.temperature": (1, 1, 1),
                f"{block_c}cttn{i}.qkv.weight": (3 * channels, channels, 1, 1),
                f"{block_c}cttn{i}.qkv_dwconv.weight": (3 * channels, 1, 3, 3),
                f"{block_c}cttn{i}.project_out.weight": (channels, channels, 1, 1),
            }
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def feed_forward(name, width):
    return {
        f"{name}project_in.weight": (2 * width, width, 1, 1),
        f"{name}dwconv.weight": (2 * width, 1, 3, 3),
        f"{name}project_out.weight": (width, width, 1, 1),
    }


@pytest.mark.parametrize(
    ("sizes", "config"),
    [
        (dict(), asid(4)),
        (dict(num_groups=8, scale=2), asid_d8(2)),
        (dict(channels=20, num_groups=1, scale=3), ASIDConfig(3, 20, 1)),
    ],
)
def test_a_published_file_fills_the_network_it_holds(tmp_path, sizes, config):
    tensors = published(**sizes)
    save_file(tensors, tmp_path / "published.safetensors")
    network = nlsr.load(tmp_path / "published.safetensors")
    assert network.config == config
    window = network.groups[0].distillation.stages[2].window.attention
    query, key, values = tensors["block0.residual_layer.0.SLA3.attn.to_qkv.weight"].chunk(3)
    assert torch.equal(window.operator.query.weight, query)
    assert torch.equal(window.operator.key.weight, key)
    assert torch.equal(window.values.weight, values)


def test_a_published_file_with_a_missing_tensor_is_refused_by_its_published_name(tmp_path):
    tensors = published()
    del tensors["block2.residual_layer.BlockC.gfn2.dwconv.weight"]
    save_file(tensors, tmp_path / "published.safetensors")
    with pytest.raises(CheckpointError, match=r"asid.*missing 'block2\.residual_layer\.BlockC\.gfn2\.dwconv\.weight'"):
        nlsr.load(tmp_path / "published.safetensors")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ASIDConfig(5), "expected a scale of 2, 3 or 4, got 5"),
        (ASIDConfig(2, channels=18), "multiple of 4 and at least 8, got 18"),
        (ASIDConfig(2, channels=4), "multiple of 4 and at least 8, got 4"),
    ],
)
def test_what_does_not_fit_is_said(config, message):
    with pytest.raises(ShapeError, match=message):
        ASID(config)
