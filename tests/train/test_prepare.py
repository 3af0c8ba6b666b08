"""From folders to pairs: what is taken and left out, and a cache that no interruption, change or damage breaks."""

import os
import re
import resource

import numpy as np
import pytest
import torch
from PIL import Image
from tests.train.conftest import pattern

from nlsr.errors import ImageError, RecipeError
from nlsr.files import replacing
from nlsr.images import resize
from nlsr.train.data import cache as cache_module
from nlsr.train.data import prepare


@pytest.fixture
def ready(data, tmp_path):
    """prepare() with the training folder and a cache; keywords change it."""

    def run(*folders, **changes):
        return prepare(folders or [data / "train"], **(dict(scale=2, cache=tmp_path / "cache") | changes))

    return run


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that were decoded."""
    names, read = [], cache_module.read
    monkeypatch.setattr(cache_module, "read", lambda path: names.append(path.name) or read(path))
    return names


def entries(tmp_path):
    return sorted((tmp_path / "cache" / "pairs").iterdir())


def test_images_are_decoded_once_and_only_a_changed_one_again(data, ready, decoded, tmp_path):
    first = ready()
    assert sorted(decoded) == ["0.png", "1.png", "2.png"]
    before = {entry.path: entry.file.stat().st_mtime_ns for entry in first.entries}
    decoded.clear()
    ready()
    assert decoded == []
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(data / "train" / "1.png")
    again = ready()
    assert decoded == ["1.png"]
    assert again[1][1].shape == (3, 40, 40)
    changed = [entry.path.name for entry in again.entries if entry.file.stat().st_mtime_ns != before[entry.path]]
    assert changed == ["1.png"]
    assert len(entries(tmp_path)) == 3  # the old entry was replaced


def test_a_file_that_was_touched_but_not_changed_is_not_decoded(data, ready, decoded):
    ready()
    decoded.clear()
    os.utime(data / "train" / "0.png", (1, 1))
    ready()
    assert decoded == []


def test_every_scale_has_entries_of_its_own(ready, tmp_path):
    for scale in (2, 3, 2):
        assert [low.shape[1] for low, _ in ready(scale=scale)] == [64 // scale] * 3
    ready(source_scales=[1.0, 0.5])
    assert len(entries(tmp_path)) == 9


@pytest.mark.parametrize("damage", ["cut", "pixels", "header", "sizes", "empty"])
def test_a_damaged_entry_is_noticed_and_made_again(ready, decoded, tmp_path, damage):
    first = ready()
    expected = [[image.clone() for image in pair] for pair in first]
    file = first.entries[1].file
    content = bytearray(file.read_bytes())
    if damage == "pixels":
        content[-100] ^= 1
    elif damage == "header":
        content[20] ^= 1
    elif damage == "sizes":  # still a whole file of tensors
        content = content.replace(b"[[32, 40]]", b"[[40, 32]]").replace(b"[[32,40]]", b"[[40,32]]")
        content = content.replace(rb"\"sizes\": [[32, 40]]", rb"\"sizes\": [[40, 32]]")
    file.write_bytes({"cut": content[: len(content) // 2], "empty": b""}.get(damage, content))
    decoded.clear()
    again = ready()
    assert decoded == ["1.png"]
    for pair, old in zip(again, expected, strict=True):
        assert all(torch.equal(image, kept) for image, kept in zip(pair, old, strict=True))


def test_an_interrupted_run_goes_on_and_leaves_no_halves(ready, decoded, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ready()
    assert entries(tmp_path) == []
    monkeypatch.undo()

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ready(report=stop)
    kept = [file.stat().st_mtime_ns for file in entries(tmp_path)]
    assert len(kept) >= 2
    done = []
    assert len(ready(report=lambda *count: done.append(count))) == 3
    assert set(kept) <= {file.stat().st_mtime_ns for file in entries(tmp_path)}
    assert done == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_what_killed_processes_left_is_removed_but_not_what_another_writes_now(ready, tmp_path):
    folder = tmp_path / "cache" / "pairs"
    folder.mkdir(parents=True)
    old = folder / ".aa.0123abcd.part"
    old.write_bytes(b"half")
    os.utime(old, (1, 1))  # a system without locks goes by the time
    with replacing(folder / "another") as file:
        file.write(b"whole")
        ready()
    assert not old.exists()
    assert (folder / "another").read_bytes() == b"whole"


def test_a_full_disk_is_one_clear_error_and_what_is_written_stays(data, ready, tmp_path):
    Image.fromarray(pattern(7, 400, 400)).save(data / "train" / "large.png")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(ImageError, match=r"cannot be written \(File too large\); 3 of 4 are there and stay; free"):
            ready()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert len(entries(tmp_path)) == 3
    assert len(ready()) == 4


def test_a_cache_that_is_no_folder_is_one_clear_error(ready, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(ImageError, match="cannot be written"):
        ready()


def test_a_corrupt_image_is_named_and_left_out(data, ready):
    (data / "train" / "bad.png").write_bytes(b"not a picture")
    whole = (data / "train" / "0.png").read_bytes()
    (data / "train" / "cut.png").write_bytes(whole[: len(whole) // 2])
    prepared = ready()
    assert len(prepared) == 3
    assert [re.search(r"(\w+\.png)", line)[1] for line in prepared.left_out] == ["bad.png", "cut.png"]


def test_a_missing_or_empty_folder_and_one_without_a_whole_image_are_errors(data, ready):
    with pytest.raises(RecipeError, match="expected a folder of training images, found none; check its name"):
        ready(data / "no")
    (data / "empty").mkdir()
    with pytest.raises(RecipeError, match=r"expected training images \(\.png .*\), found none"):
        ready(data / "empty")
    (data / "empty" / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(RecipeError, match=r"none of the 1 training images can be used; the first: .*bad\.png"):
        ready(data / "empty")


def test_odd_names_are_names(data, ready):
    for name in (b"new\nline.png", b"\xff\xfe.png", b"[1]*.png"):
        with open(os.fsencode(data / "train") + b"/" + name, "wb") as file:
            Image.fromarray(pattern(4)).save(file, "PNG")
    with open(os.fsencode(data / "train") + b"/b\nad.png", "wb") as file:
        file.write(b"no")
    prepared = ready()
    assert len(prepared) == 6
    assert "\n" not in prepared.left_out[0]
    assert len(ready()) == 6


def test_links_that_lead_back_end_and_broken_ones_are_named(data, ready):
    (data / "train" / "loop").symlink_to(data / "train")
    (data / "train" / "self.png").symlink_to("self.png")
    (data / "train" / "gone.png").symlink_to("nowhere.png")
    prepared = ready()
    assert len(prepared) == 3
    assert len(prepared.left_out) == 2


def test_every_kind_of_image_becomes_8_bit_rgb(data, ready, tmp_path):
    folder = data / "kinds"
    folder.mkdir()
    image = Image.fromarray(pattern(5))
    image.convert("L").save(folder / "a-grey.png")
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(folder / "b-deep.png")
    image.convert("CMYK").save(folder / "c-cmyk.jpg", quality=90)
    alpha = np.zeros((64, 80), np.uint8)
    alpha[:, 40:] = 255
    Image.fromarray(np.dstack([np.where(alpha[..., None] > 0, np.asarray(image), 0), alpha])).save(
        folder / "d-alpha.png"
    )
    prepared = ready(folder)
    assert [high.shape for _, high in prepared] == [(3, 64, 80)] * 4
    facts = [entry.facts for entry in prepared.entries]
    assert [one.grey for one in facts] == [True, True, False, False]
    assert [one.depth for one in facts] == [8, 16, 8, 8]
    assert [one.alpha for one in facts] == [False, False, False, True]
    assert [one.quality for one in facts] == [None, None, 90, None]
    grey, deep = prepared[0][1], prepared[1][1]
    assert torch.equal(grey, deep)
    assert torch.equal(grey[0], grey[2])
    assert prepared[3][1][:, :, :40].float().mean() > 30  # black under transparency is gone


def test_low_res_images_of_others_are_taken_and_their_size_is_checked(data, ready, tmp_path):
    given = data / "low"
    given.mkdir()
    for number, name in enumerate(["0.png", "1x2.png", "2_x2.png"]):
        Image.fromarray(np.full((32, 40, 3), 50 + number, np.uint8)).save(given / name)
    prepared = ready(low_res=[given])
    assert [int(low[0, 0, 0]) for low, _ in prepared] == [50, 51, 52]
    assert torch.equal(ready()[0][0], resize(prepared[0][1], scale=1 / 2))  # made ones have entries of their own
    Image.fromarray(np.zeros((31, 40, 3), np.uint8)).save(given / "0.png")
    (given / "1x2.png").unlink()
    prepared = ready(low_res=[given])
    assert len(prepared) == 1
    assert "expected a low-res image of 40×32 at scale 2, got 40×31" in prepared.left_out[1]
    assert "no low-res image for 1.png" in prepared.left_out[0]


@pytest.mark.parametrize("changes", [dict(low_res=[]), dict(source_scales=[0.5])])
def test_low_res_images_of_others_come_per_folder_and_at_one_size(data, ready, changes):
    with pytest.raises(RecipeError, match="low-res folders: expected one for each folder"):
        ready(**(dict(low_res=[data / "train"]) | changes))
    with pytest.raises(RecipeError, match="expected a folder of low-res images"):
        ready(low_res=[data / "nowhere"])


def test_an_image_smaller_than_the_scale_has_no_pair(data, ready):
    Image.new("RGB", (1, 9)).save(data / "train" / "tiny.png")
    prepared = ready()
    assert len(prepared) == 3
    assert len(prepared.entries) == 4
    assert prepared.left_out == []
    assert len(ready()) == 3
