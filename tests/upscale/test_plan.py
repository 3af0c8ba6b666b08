"""The plan is a pure function of model, size and budget."""

import ctypes
import json
import os
import re
from types import SimpleNamespace

import pytest
import torch

from nlsr.errors import UsageError
from nlsr.images import Header
from nlsr.memory import default_budget, parse_size, total_memory
from nlsr.networks import LCoAN, LCoANConfig
from nlsr.upscale import Upscaler


def network(scale=2, **sizes):
    torch.manual_seed(0)
    sizes = dict(channels=8, num_groups=1, num_blocks=1, operator="none", image_skip=True) | sizes
    return LCoAN(LCoANConfig(scale, **sizes)).eval()


def header(reading):
    return Header(height=90, width=100, alpha=False, depth=8, reading=reading)


def test_a_smaller_budget_makes_smaller_tiles_and_a_large_one_none():
    light = network(channels=32)
    plans = [Upscaler(light, memory=memory).plan(2000, 3000, held=0) for memory in (2**28, 5 * 2**27, 2**35)]
    assert plans[0].tile_size < plans[1].tile_size
    assert plans[2].num_tiles == 1
    assert str(plans[2]).startswith("whole")


@pytest.mark.parametrize("memory", [2**28, 2**29, 2**30, 2**32])
def test_a_plan_keeps_its_budget_with_the_largest_tiles_that_do(memory):
    upscaler = Upscaler(network(channels=32), memory=memory)
    plan = upscaler.plan(1000, 3000, held=0)
    assert plan.predicted <= memory
    if plan.tile_size and plan.tile_size < 352:
        larger = Upscaler(upscaler.models.cascade(2).networks[0], tile=plan.tile_size + 32).plan(1000, 3000, held=0)
        assert larger.predicted > memory


def test_what_is_held_beside_the_computation_makes_tiles_smaller():
    upscaler = Upscaler(network(channels=32), memory=2**29)
    streamed, collected = upscaler.plan(2000, 3000, held=0), upscaler.plan(2000, 3000, held=2**28)
    assert collected.tile_size < streamed.tile_size


@pytest.mark.parametrize(("tile", "pixels"), [("none", 100 * 300), (128, 116 * 100)])
def test_an_ensemble_holds_the_sum_of_its_views_beside_the_computation(tile, pixels):
    """The sum is an upscaled tile in float32."""
    plain, ensemble = (
        Upscaler(network(channels=32), tile=tile, precision="fp32", ensemble=each).plan(100, 300, held=0)
        for each in (False, True)
    )
    assert ensemble.predicted - plain.predicted == 4 * 3 * 2**2 * pixels


def predicted(height=100, width=3000, *, alpha=False, held=0, **options):
    """Bytes; with a tile as high as the picture, that computes what it needs in float32."""
    upscaler = Upscaler(network(channels=32), **dict(tile=128, precision="fp32") | options)
    return upscaler.plan(height, width, alpha=alpha, held=held).predicted


HIGH = 4 * 2**2
"""Bytes of what a pixel becomes, for each of its channels."""


def test_what_is_held_counts_in_full_in_tiles_and_whole_once_it_is_more_than_the_maps():
    assert predicted(held=2**30) - predicted() == 2**30
    assert predicted(held=2**31, tile="none") - predicted(held=2**30, tile="none") == 2**30


def test_alpha_adds_a_channel_to_a_row_of_tiles_and_copies_of_the_colours():
    pixels, row = 100 * 3000, HIGH * 100 * 3000
    assert predicted(alpha=True) - predicted() >= 2 * 12 * pixels + row


def test_a_row_of_tiles_is_held_beside_the_picture():
    assert predicted(width=6000) - predicted(width=3000) >= (12 + 3 * HIGH) * 100 * 3000


def test_maps_of_a_tile_take_what_the_network_says_and_of_many_tiles_more():
    per_pixel = network(channels=32).bytes_per_pixel()
    whole = predicted(width=2000, tile="none") - predicted(width=1000, tile="none")
    assert whole == pytest.approx((per_pixel + 12) * 100 * 1000, rel=1e-6)
    tiles = predicted(tile=228) - predicted(tile=128)
    assert tiles > 1.1 * per_pixel * 100 * 100


def test_half_precision_takes_less():
    assert predicted(precision="bf16", tile="none") < 0.7 * predicted(tile="none")
    assert predicted(precision="bf16") < predicted()


def test_equal_questions_get_equal_plans_that_json_can_hold():
    plans = [Upscaler(network(), memory=2**28, scale=2.5).plan(700, 900) for _ in range(2)]
    assert plans[0] == plans[1]
    assert json.loads(json.dumps(plans[0].as_dict())) == plans[0].as_dict()
    assert plans[0].scales == (2, 2)


def test_a_budget_that_no_tile_fits_is_refused():
    with pytest.raises(UsageError, match=r"a 100x90 picture to 200x180 needs .*, the memory budget is 1 MiB"):
        Upscaler(network(), memory=1000).plan(90, 100)


@pytest.mark.parametrize("tile", ["auto", "none", 32])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_the_need_that_a_refusal_names_is_enough_and_what_the_plan_says(tile, format):
    """One figure for a picture: as refused, as allowed, and as planned."""

    def plan(memory):
        return Upscaler(network(), tile=tile, memory=memory).plan_file(header(reading=2**20), format=format)

    with pytest.raises(UsageError) as refused:
        plan("1MiB")
    need = re.search(r" needs (\d+ MiB), the memory budget is 1 MiB", str(refused.value))[1]
    allowed = plan(need)
    assert f"needs {need}" in allowed.reason
    assert plan("8GiB").predicted >= allowed.predicted
    with pytest.raises(UsageError, match=f"needs {need}"):
        plan(f"{int(need.split()[0]) - 1}MiB")


def test_reading_a_picture_counts_as_a_need():
    plans = [Upscaler(network()).plan_file(header(reading), format="PNG") for reading in (0, 2**20, 2**28)]
    assert plans[0] == plans[1]
    assert 2**28 <= plans[2].predicted < 2**28 + 2**26


def test_a_picture_too_large_for_the_default_budget_is_done_in_the_smallest_tiles(monkeypatch):
    monkeypatch.setattr("nlsr.upscale.upscaler.default_budget", lambda device: 1000)
    chosen = Upscaler(network()).plan(1000, 1000)
    assert chosen.tile_size == 64
    assert "more than 1 MiB" in str(chosen)


def test_the_default_budget_is_a_quarter_of_the_machine():
    assert default_budget() == total_memory() // 4


def test_windows_is_asked_for_the_memory_of_the_machine(monkeypatch):
    """There `os.sysconf` is missing. MEMORYSTATUSEX has 64 bytes: two numbers of 32 bits, seven of 64."""

    def answer(pointer):
        status = pointer._obj
        assert (ctypes.sizeof(status), status.length) == (64, 64)
        ctypes.memmove(ctypes.addressof(status) + 8, (12 * 2**30).to_bytes(8, "little"), 8)
        return 1

    kernel = SimpleNamespace(GlobalMemoryStatusEx=answer)
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    assert total_memory() == 12 * 2**30
    assert default_budget() == 3 * 2**30


def test_a_plan_says_its_tiles_passes_and_precision():
    asked = Upscaler(network(), tile=128, precision="fp32").plan(100, 300)
    assert str(asked).startswith("3 tiles of 116x100 (as asked, needs ")
    twice = Upscaler(network(), scale=4, tile="none", precision="bf16").plan(10, 30)
    assert str(twice).startswith("whole in 2 passes (2x2) bf16 (as asked")
    smaller = Upscaler(network(), scale=0.5).plan(10, 30)
    assert str(smaller).startswith("resized without a network")


@pytest.mark.parametrize("scale", [1, 2, 4, 8, 16])
def test_a_plan_for_several_passes_has_smaller_tiles(scale):
    plan = Upscaler(network(channels=64), scale=scale, memory=2**30).plan(3000, 500, held=0)
    assert plan.scales == (2,) * (scale.bit_length() - 1)
    assert (plan.tile_size or 352) <= 352 // max(1, scale // 2)


@pytest.mark.parametrize(
    ("text", "size"), [("2GiB", 2**31), ("500 MB", 5 * 10**8), ("1.5g", 3 * 2**29), ("4096", 4096)]
)
def test_sizes_are_understood(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "lots", "0", "-1GiB", "nanGiB", "infMB", "1TB", "GiB"])
def test_sizes_that_are_none_get_one_line(text):
    with pytest.raises(UsageError, match=f"`memory={text}`: expected a size like 2GiB or 500MB"):
        parse_size(text)
