"""Batches: what one bad picture does to the others, what happens at the same time, and what is left when it stops."""

import argparse
import errno
import importlib.util
import json
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nlsr.errors import ImageError
from nlsr.images import read
from nlsr.networks import LCoAN, LCoANConfig
from nlsr.upscale import Upscaler
from nlsr.upscale.batch import Manifest, Naming, Saving, deciding, find_pictures, run, running, tasks

ROOT = Path(__file__).parents[2]
PATIENCE = 3600
"""Seconds to wait for what comes at once unless it never comes."""


def network(seed=0):
    torch.manual_seed(seed)
    return LCoAN(LCoANConfig(2, channels=8, num_groups=2, num_blocks=1, num_clusters=4, chunk_size=16))


@pytest.fixture
def upscaler():
    return Upscaler(network(), precision="fp32")


def picture(path, size=(9, 12), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def todo(folder, output, pattern="{stem}"):
    sources = find_pictures([folder], leave_out=output).sources
    return tasks(sources, [Naming(output, pattern, "x2", "m").target(source) for source in sources])


def statuses(results):
    return [(done.task.source.name, done.status) for done in results]


SAVING = Saving(make_folders=True)


def test_results_are_those_of_one_picture_alone(upscaler, tmp_path):
    for index, mode in enumerate(("RGB", "L", "RGBA")):
        (tmp_path / "in" / "sub").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (7 + index, 11, 4), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(tmp_path / "in" / "sub" / f"{index}.png")
    for done in run(upscaler, todo(tmp_path / "in", tmp_path / "out"), SAVING):
        alone = tmp_path / "alone.png"
        upscaler.save(read(done.task.source), alone, overwrite=True)
        assert done.status == "done"
        assert done.task.target.read_bytes() == alone.read_bytes()
        assert done.outcome.plan.height == done.size[0]
    assert len(list((tmp_path / "out" / "sub").iterdir())) == 3


def test_a_bad_picture_is_named_and_the_others_are_done(upscaler, tmp_path):
    for name in "aceg":
        picture(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "b.png").write_bytes(b"")
    (tmp_path / "in" / "d.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "g.png").write_bytes(b"mine")
    (tmp_path / "in" / "f.png").mkdir()
    results = list(run(upscaler, todo(tmp_path / "in", tmp_path / "out"), SAVING))
    failed = {done.task.source.name: done.reason for done in results if done.error}
    assert [name for name, status in statuses(results) if status == "done"] == ["a.png", "c.png", "e.png"]
    assert list(failed) == ["b.png", "d.jpg", "g.png", "f.png"]
    assert failed["b.png"].startswith("expected PNG")
    assert "got a directory" in failed["f.png"]
    assert "exists already" in failed["g.png"]
    assert (tmp_path / "out" / "g.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("no such\nthing"), "RuntimeError: no such thing; this is a mistake of nlsr, please report it"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory; close other programs"),
        (MemoryError(), "out of memory; close other programs"),
    ],
)
def test_whatever_goes_wrong_with_one_picture_the_others_are_done(upscaler, tmp_path, monkeypatch, error, reason):
    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png")
    upscale = Upscaler.upscale

    def sometimes(self, picture, **options):
        if not (tmp_path / "out" / "b.png").exists() and len(computed) == 1:
            computed.append("failed")
            raise error
        computed.append("done")
        return upscale(self, picture, **options)

    computed = []
    monkeypatch.setattr(Upscaler, "upscale", sometimes)
    results = list(run(upscaler, todo(tmp_path / "in", tmp_path / "out"), SAVING))
    assert statuses(results) == [("a.png", "done"), ("b.png", "failed"), ("c.png", "done")]
    assert results[1].reason.startswith(reason)


def test_reading_computing_and_writing_overlap(upscaler, tmp_path, monkeypatch):
    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png")
    read_c, computed_b = threading.Event(), threading.Event()
    upscale, write = Upscaler.upscale, running.write

    def reading(path, **options):
        if path.name == "c.png":
            read_c.set()
        return read(path, **options)

    def computing(self, picture, **options):
        order.append("compute")
        if order.count("compute") == 2:
            assert read_c.wait(PATIENCE), "c was not read while b was computed"
            computed_b.set()
        return upscale(self, picture, **options)

    def writing(path, *arguments, **options):
        if path.name == "a.png":
            assert computed_b.wait(PATIENCE), "b was not computed while a was written"
        return write(path, *arguments, **options)

    order = []
    monkeypatch.setattr(running, "read", reading)
    monkeypatch.setattr(running, "write", writing)
    monkeypatch.setattr(Upscaler, "upscale", computing)
    results = statuses(run(upscaler, todo(tmp_path / "in", tmp_path / "out"), SAVING))
    assert results == [("a.png", "done"), ("b.png", "done"), ("c.png", "done")]


def test_large_pictures_are_neither_read_ahead_nor_held_for_writing(tmp_path, monkeypatch):
    small, large = (9, 12), (300, 400)
    for name, size in (("a", small), ("b", large), ("c", large), ("d", small)):
        picture(tmp_path / "in" / f"{name}.png", size)
    memory = 16 * 34 * 2**20  # a sixteenth is a little more than PNG needs to be written
    upscaler = Upscaler(network(), precision="fp32", memory=memory)
    events = []
    upscale, save = Upscaler.upscale, Upscaler.save

    def reading(path, *, max_pixels, check):
        here = "ahead" if threading.current_thread() is not threading.main_thread() else "now"
        too_much = 2**26 if here == "ahead" and path.stem in "bc" else 0
        told = (lambda header: check(replace(header, reading=too_much))) if too_much else check
        picture = read(path, max_pixels=max_pixels, check=told)
        events.append(f"read {path.stem} {here}")
        return picture

    def computing(self, picture, **options):
        events.append("hold")
        return upscale(self, picture, **options)

    def streaming(self, picture, path, **options):
        events.append(f"stream {path.stem}")
        return save(self, picture, path, **options)

    monkeypatch.setattr(running, "read", reading)
    monkeypatch.setattr(Upscaler, "upscale", computing)
    monkeypatch.setattr(Upscaler, "save", streaming)
    results = list(run(upscaler, todo(tmp_path / "in", tmp_path / "out"), SAVING))
    assert [done.status for done in results] == ["done"] * 4
    assert events == [
        "read a now",
        "hold",
        "read b now",
        "stream b",
        "read c now",
        "stream c",
        "read d now",
        "hold",
    ]


def test_a_full_disk_stops_the_batch(upscaler, tmp_path, monkeypatch):
    for name in "abcd":
        picture(tmp_path / "in" / f"{name}.png")
    write = running.write

    def full(path, *arguments, **options):
        if path.name == "b.png":
            raise ImageError(f"{path}: the disk is full") from OSError(errno.ENOSPC, "No space left on device")
        return write(path, *arguments, **options)

    monkeypatch.setattr(running, "write", full)
    results = list(run(upscaler, todo(tmp_path / "in", tmp_path / "out"), SAVING))
    assert statuses(results) == [("a.png", "done"), ("b.png", "failed")]
    assert results[1].disk_is_full
    assert not (tmp_path / "out" / "b.png").exists()


def resumed(upscaler, folder, output, saving=SAVING):
    with Manifest(output, deciding(upscaler, saving), resume=True) as manifest:
        return statuses(run(upscaler, todo(folder, output), saving, manifest=manifest))


def test_a_resumed_batch_does_what_is_left(upscaler, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    for name in "abc":
        picture(folder / f"{name}.png")
    assert resumed(upscaler, folder, output) == [("a.png", "done"), ("b.png", "done"), ("c.png", "done")]
    written = (output / "a.png").read_bytes()
    picture(folder / "b.png", (8, 8))
    (output / "c.png").write_bytes(b"half")
    picture(folder / "d.png")
    assert resumed(upscaler, folder, output) == [
        ("a.png", "skipped"),
        ("b.png", "done"),
        ("c.png", "done"),
        ("d.png", "done"),
    ]
    assert (output / "c.png").read_bytes() == (output / "a.png").read_bytes() == written
    assert {status for _, status in resumed(upscaler, folder, output)} == {"skipped"}


def test_a_result_that_was_written_but_not_recorded_is_made_again(upscaler, tmp_path, monkeypatch):
    for name in "ab":
        picture(tmp_path / "in" / f"{name}.png")

    def killed(self, target, *_):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "finish", killed)
        with pytest.raises(SystemExit):
            resumed(upscaler, tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out" / "a.png").exists()
    assert resumed(upscaler, tmp_path / "in", tmp_path / "out") == [("a.png", "done"), ("b.png", "done")]


@pytest.mark.parametrize(
    ("other", "saving"),
    [
        (lambda: Upscaler(network(1), precision="fp32"), SAVING),
        (lambda: Upscaler(network(), precision="bf16"), SAVING),
        (lambda: Upscaler(network(), precision="fp32", scale=1.5), SAVING),
        (lambda: Upscaler(network(), precision="fp32", tile=16), SAVING),
        (lambda: Upscaler(network(), precision="fp32", ensemble=True), SAVING),
        (lambda: Upscaler(network(), precision="fp32"), Saving(make_folders=True, quality=50)),
        (lambda: Upscaler(network(), precision="fp32"), Saving(make_folders=True, strip=True)),
    ],
)
def test_what_was_made_by_another_model_or_with_other_settings_is_made_again(upscaler, tmp_path, other, saving):
    picture(tmp_path / "in" / "a.png")
    resumed(upscaler, tmp_path / "in", tmp_path / "out")
    assert resumed(other(), tmp_path / "in", tmp_path / "out", saving) == [("a.png", "done")]
    assert resumed(other(), tmp_path / "in", tmp_path / "out", saving) == [("a.png", "skipped")]


def test_neither_budget_nor_device_nor_file_decide_about_results(tmp_path):
    one = deciding(Upscaler(network(), memory=2**30), SAVING)
    assert one == deciding(Upscaler(network(), memory=2**31, device="cpu"), Saving(overwrite=True, max_pixels=5))
    assert json.loads(json.dumps(one)) == one


def test_an_interruption_waits_for_the_result_in_hand_and_leaves_no_half_one(upscaler, tmp_path, monkeypatch):
    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png")
    upscale, write = Upscaler.upscale, running.write
    interrupted = threading.Event()

    def computing(self, picture, **options):
        calls.append(1)
        if len(calls) == 2:
            interrupted.set()
            raise KeyboardInterrupt
        return upscale(self, picture, **options)

    def writing(*arguments, **options):
        assert interrupted.wait(PATIENCE)
        return write(*arguments, **options)

    calls = []
    monkeypatch.setattr(Upscaler, "upscale", computing)
    monkeypatch.setattr(running, "write", writing)
    with pytest.raises(KeyboardInterrupt):
        list(run(upscaler, todo(tmp_path / "in", tmp_path / "out"), SAVING))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
    assert read(tmp_path / "out" / "a.png").pixels.shape == (1, 3, 18, 24)


def test_forty_mixed_files_killed_five_times_end_as_if_never_killed(tmp_path, capfd):
    specification = importlib.util.spec_from_file_location("batch", ROOT / "benchmarks" / "batch.py")
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    with warnings.catch_warnings(), capfd.disabled():  # its copies of this process write to files of their own
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads, none of which is needed
        report = script.kill(argparse.Namespace(files=40, kills=5, wide=False, seed=0), tmp_path)
    assert (report["files"], report["failed"], report["kills"]) == (40, 20, 5)
