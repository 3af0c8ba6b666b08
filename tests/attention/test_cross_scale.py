"""Cross-scale attention against a literal version that cuts and pastes patches, values and gradients."""

import pytest
import torch
from tests.tolerances import assert_close
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nlsr.attention import cross_scale, streamed
from nlsr.attention.cross_scale import (
    CrossScale,
    CrossScaleAttention,
    from_cells,
    pad_to_multiple,
    shift_sum,
    shrink,
    to_cells,
)
from nlsr.attention.dense import NonLocal
from nlsr.errors import ShapeError

SIZES = [(1, 1), (1, 7), (2, 3), (5, 4), (6, 9), (7, 11)]


def block(scale, **options):
    torch.manual_seed(0)
    return CrossScaleAttention(6, CrossScale(6, scale, **options))


def features(batch, height, width, dtype=torch.float64):
    return torch.randn(batch, 6, height, width, dtype=dtype, generator=torch.Generator().manual_seed(1))


def literal(attention, input):
    """The paper's figure: patches of the values are pasted, weighted by how well patches of the keys match."""
    scale = attention.operator.scale
    height, width = input.shape[2:]
    padded = F.pad(input, (0, -width % scale, 0, -height % scale), mode="replicate")
    small = F.interpolate(padded, scale_factor=1 / scale, mode="bilinear", align_corners=False)
    query, key, values = attention.operator.query(padded), attention.operator.key(small), attention.values(padded)
    images = []
    for q, k, v in zip(query, key, values, strict=True):
        key_patches = patches(k, 3, 1, 1)
        norms = key_patches.flatten(1).norm(dim=1).clamp(min=1e-4)
        scores = F.conv2d(q[None], key_patches / norms[:, None, None, None], padding=1)
        affinity = F.softmax(attention.operator.softmax_scale * scores, dim=1)
        pasted = F.conv_transpose2d(affinity, patches(v, 3 * scale, scale, scale), stride=scale, padding=scale)
        if attention.operator.overlap_average:
            ones = torch.ones_like(affinity[:, :1])
            count = F.conv_transpose2d(ones, ones.new_ones(1, 1, 3 * scale, 3 * scale), stride=scale, padding=scale)
            images.append(pasted / count)
        else:
            images.append(pasted / 6)
    return torch.cat(images)[..., : scale * height, : scale * width]


def patches(map, size, stride, padding):
    columns = F.unfold(map[None], size, stride=stride, padding=padding)
    return columns[0].T.reshape(-1, map.shape[0], size, size)


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request, monkeypatch):
    """Small maps fit into one block; here they also do not."""
    if request.param == "many blocks":
        monkeypatch.setattr(cross_scale, "BLOCK_BYTES", 600)
        monkeypatch.setattr(cross_scale, "SMALLEST_SIDE", 2)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [2, 3])
def test_the_block_equals_the_literal_version_in_values_and_gradients(scale, size, batch):
    results = []
    for version in (CrossScaleAttention.forward, literal):
        attention = block(scale).double()
        input = features(batch, *size).requires_grad_()
        output = version(attention, input)
        gradients = torch.autograd.grad(output.pow(3).sum(), [input, *attention.parameters()])
        results.append((output, *gradients))
    for ours, expected in zip(*results, strict=True):
        assert_close(ours, expected, factor=10)


@pytest.mark.parametrize("options", [{"overlap_average": True}, {"softmax_scale": 3.0}, {"reduction": 3}])
def test_options_do_what_they_say(options):
    attention = block(2, **options).double()
    assert_close(attention(features(1, 6, 5)), literal(attention, features(1, 6, 5)))


def test_published_rows_are_averages_times_nine_six_or_four_sixths():
    published, average = (
        block(2, overlap_average=flag).double().operator.match(features(1, 4, 4)).dense() for flag in (False, True)
    )
    gain = torch.tensor([[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]], dtype=torch.float64) / 6
    assert_close(published, average * gain.view(16, 1))
    assert (average.sum(-1) <= 1 + 1e-12).all()


@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 1), (torch.bfloat16, 3)])
@pytest.mark.parametrize("scale", [2, 3])
def test_low_precision_stays_close_to_double_precision(scale, dtype, factor):
    input = features(2, 7, 8, dtype).clamp(-1, 1)
    operator = block(scale).to(dtype).operator
    affinity = operator.match(input)
    values = torch.randn(2, affinity.num_keys, 5, dtype=dtype)
    drawn = affinity.aggregate(values)
    assert drawn.dtype == dtype
    assert affinity.rows(torch.tensor([0])).dtype == torch.float32
    assert_close(drawn, affinity.dense().double() @ values.double(), factor=factor)
    if dtype == torch.float32:
        assert_close(affinity.dense(), block(scale).double().operator.match(input.double()).dense().float(), factor=3)


def test_under_autocast_matching_runs_in_float32_forward_and_backward():
    operator = block(2).operator
    query = torch.randn(1, 3, 6, 6, requires_grad=True)
    key = torch.randn(1, 3, 3, 3, requires_grad=True)
    values = torch.randn(1, 9, 4)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            affinity = cross_scale.CrossScaleAffinity(cross_scale.PatchAffinity(query, key))
            drawn = affinity.aggregate(values)
            rows = affinity.dense()
        results.append((drawn, rows, *torch.autograd.grad(drawn.sum(), (query, key))))
    for plain, autocast in zip(*results, strict=True):
        assert torch.equal(plain, autocast)
    with torch.autocast("cpu", torch.bfloat16):
        assert operator.match(features(1, 6, 6, torch.float32)).dense().dtype == torch.float32


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 4)])
@pytest.mark.parametrize("scale", [2, 3])
def test_aggregate_equals_dense_matrix_for_the_matching_and_for_the_cells(scale, size):
    affinity = block(scale).double().operator.match(features(2, *size))
    values = torch.randn(2, affinity.num_keys, 5, dtype=torch.float64)
    assert_close(affinity.aggregate(values), affinity.dense() @ values)
    assert_close(affinity.matching.aggregate(values), affinity.matching.dense() @ values)
    assert (affinity.dense() >= 0).all()
    assert_close(affinity.matching.dense().sum(-1), torch.ones(2, affinity.num_queries, dtype=torch.float64))


def test_a_row_of_cells_is_the_sum_of_nine_shifted_rows_of_the_matching():
    affinity = block(2).double().operator.match(features(1, 6, 8))
    matching = affinity.matching.dense()[0].view(6, 8, 3, 4)
    expected = torch.zeros(6, 8, 3, 4, dtype=torch.float64)
    for y, x, u, v in torch.cartesian_prod(*map(torch.arange, expected.shape)).tolist():
        for a, b in torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2)).tolist():
            if 0 <= y + a < 6 and 0 <= x + b < 8 and 0 <= u + a < 3 and 0 <= v + b < 4:
                expected[y, x, u, v] += matching[y + a, x + b, u + a, v + b] / 6
    assert_close(affinity.dense()[0].view_as(expected), expected)


def test_shift_sum_and_its_gradient_are_differentiable():
    map = torch.randn(2, 3, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    covered, wanted = (slice(2, 5), slice(0, 4)), (slice(3, 6), slice(1, 4))
    assert torch.autograd.gradcheck(lambda t: shift_sum(t, covered, wanted).sin(), map)
    assert torch.autograd.gradgradcheck(lambda t: shift_sum(t, covered, wanted).sin(), map)


@pytest.mark.parametrize("scale", [2, 3])
def test_shrink_is_bilinear_interpolation_without_antialiasing(scale):
    map = features(2, 4 * scale, 3 * scale)
    expected = F.interpolate(map, scale_factor=1 / scale, mode="bilinear", align_corners=False, antialias=False)
    assert_close(shrink(map, scale), expected)


@pytest.mark.parametrize("scale", [2, 3])
def test_cells_and_maps_are_inverse(scale):
    map = features(2, 2 * scale, 5 * scale)
    assert torch.equal(from_cells(to_cells(map, scale), 2, 5, scale), map)
    assert torch.equal(to_cells(map, scale)[:, 6, :6], map[:, :, scale, scale])


def test_only_sides_that_are_no_multiples_are_padded():
    assert pad_to_multiple(features(1, 4, 6), 2) is not None
    map = features(1, 4, 6)
    assert pad_to_multiple(map, 2) is map
    padded = pad_to_multiple(features(1, 4, 5), 3)
    assert padded.shape[2:] == (6, 6)
    assert torch.equal(padded[..., 4, :], padded[..., 3, :])


@pytest.mark.usefixtures("blocks")
def test_an_image_alone_and_in_a_batch_gives_the_same():
    attention = block(2)
    images = features(3, 7, 8, torch.float32)
    assert_close(torch.cat([attention(image[None]) for image in images]), attention(images))


def test_equal_calls_give_equal_bits():
    attention = block(3)
    assert torch.equal(attention(features(2, 10, 8, torch.float32)), attention(features(2, 10, 8, torch.float32)))


def test_keys_that_are_zero_have_finite_gradients():
    attention = block(2).double()
    input = torch.zeros(1, 6, 4, 4, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        attention.operator.key[0].bias.zero_()
    attention(input).sum().backward()
    assert input.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in attention.parameters())


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that any operation returns."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() * leaf.element_size() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.bytes = max([self.bytes, *sizes])
        return result


@pytest.mark.parametrize("operator", [CrossScale(6, 2), NonLocal(6)], ids=["cross-scale", "in-scale"])
def test_no_tensor_is_quadratic_in_the_positions_forward_or_backward(operator, monkeypatch):
    monkeypatch.setattr(cross_scale, "SMALLEST_SIDE", 4)
    for module in (cross_scale, streamed):
        monkeypatch.setattr(module, "BLOCK_BYTES", 2**15)
    largest = []
    for side in (12, 24):
        input = features(1, side, side, torch.float32).requires_grad_()
        with LargestTensor() as mode:
            affinity = operator.match(input)
            affinity.aggregate(torch.randn(1, affinity.num_keys, 4)).sum().backward()
        largest.append(mode.bytes)
    assert largest[1] <= 4 * largest[0]
    assert largest[1] < 4 * affinity.num_queries * affinity.num_keys / 5


def test_another_scale_is_refused():
    with pytest.raises(ShapeError, match="expected a scale of 2 or 3 for cross-scale attention, got 4"):
        CrossScale(8, 4)
