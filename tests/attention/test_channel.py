"""Channel attention against loops over groups, written from the formulas."""

import pytest
import torch
from tests.tolerances import assert_close
from torch import nn

from nlsr.attention.channel import ChannelAttention

LAYOUTS = ["window", "grid"]
SIZES = [(1, 1), (1, 7), (5, 9), (8, 8), (16, 24)]


def features(batch, height, width, dtype=torch.float64):
    return torch.randn(batch, 6, height, width, dtype=dtype, generator=torch.Generator().manual_seed(1))


def attention(layout, side=8):
    torch.manual_seed(0)
    made = ChannelAttention(6, pattern=layout, side=side).double()
    nn.init.constant_(made.temperature, 3.5)
    return made


def plain(made, map):
    query, key, values = made.mix(made.embed(map)).chunk(3, dim=1)
    height, width = map.shape[2:]
    groups = {}
    for row in range(height):
        for column in range(width):
            window = row // made.side, column // made.side
            offset = row % made.side, column % made.side
            groups.setdefault(window if made.pattern == "window" else offset, []).append((row, column))
    drawn = torch.zeros_like(values)
    for members in groups.values():
        rows, columns = torch.tensor(members).T
        q, k, v = (part[:, :, rows, columns] for part in (query, key, values))
        cosines = (q @ k.mT) / (q.norm(dim=2, keepdim=True) * k.norm(dim=2, keepdim=True).mT)
        drawn[:, :, rows, columns] = (3.5 * cosines).softmax(-1) @ v
    return made.project(drawn)


@pytest.mark.parametrize("side", [3, 8])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_and_gradients_equal_those_of_plain_loops(layout, size, batch, side):
    results = []
    for compute in (lambda made, map: made(map), plain):
        made, map = attention(layout, side), features(batch, *size).requires_grad_()
        output = compute(made, map)
        output.pow(3).sum().backward()
        gradients = [p.grad for name, p in made.named_parameters() if name != "temperature"]
        results.append([output, map.grad, *gradients])
    for ours, expected in zip(*results, strict=True):
        assert_close(ours, expected, factor=10)


def test_the_temperature_learns():
    made = attention("window")
    step = 1e-6

    def total(temperature):
        nn.init.constant_(made.temperature, temperature)
        return made(features(1, 8, 8)).pow(3).sum()

    slope = (total(3.5 + step) - total(3.5 - step)) / (2 * step)
    total(3.5).backward()
    torch.testing.assert_close(made.temperature.grad.flatten(), slope.detach().flatten(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_low_precision_stays_close_to_double_precision(layout, dtype):
    made, map = attention(layout).to(dtype), features(2, 9, 10, dtype)
    output = made(map)
    assert output.dtype == dtype
    assert_close(output, made.double()(map.double()).to(dtype), factor=2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_features_that_are_all_zero_have_finite_gradients(layout):
    made, map = attention(layout), torch.zeros(1, 6, 9, 9, dtype=torch.float64, requires_grad=True)
    output = made(map)
    output.sum().backward()
    assert torch.equal(output, torch.zeros_like(output))
    assert map.grad.isfinite().all()
