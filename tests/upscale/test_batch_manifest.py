"""What is recorded of a batch: it holds after any interruption, and claims nothing that is not so."""

import errno
import json
import os
import sys
from types import SimpleNamespace

import pytest

from nlsr.errors import ImageError, UsageError
from nlsr.upscale.batch import Manifest, conditions_of
from nlsr.upscale.batch.manifest import NAME, Content

SETTINGS = {"model": ["abc"], "quality": 90}


@pytest.fixture
def batch(tmp_path):
    """An output folder with one finished result, and its picture."""
    picture, folder = tmp_path / "a.jpg", tmp_path / "out"
    picture.write_bytes(b"picture")
    with Manifest(folder, SETTINGS, {"memory": 5}, resume=False) as manifest:
        (folder / "sub").mkdir()
        manifest.begin(folder / "sub" / "a.png")
        (folder / "sub" / "a.png").write_bytes(b"larger picture")
        manifest.finish(folder / "sub" / "a.png", Content.of(picture), {"tile_size": None})
    return picture, folder / "sub" / "a.png", folder


def is_finished(batch, settings=SETTINGS, resume=True):
    picture, target, folder = batch
    with Manifest(folder, settings, resume=resume) as manifest:
        return manifest.finished(target, Content.of(picture))


def test_a_result_is_finished_for_the_same_picture_and_settings(batch):
    assert is_finished(batch)
    assert is_finished(batch), "opening it has changed something"
    assert not is_finished(batch, resume=False)


def test_other_times_and_another_name_of_the_picture_do_not_matter(batch):
    picture, target, folder = batch
    os.utime(picture, (1, 1))
    os.utime(target, (1, 1))
    assert is_finished((picture.rename(picture.with_name("b.jpg")), target, folder))


def changed_picture(picture, target, folder):
    time = picture.stat().st_mtime_ns
    picture.write_bytes(b"PICTURE")
    os.utime(picture, ns=(time, time))


@pytest.mark.parametrize(
    "change",
    [
        changed_picture,
        lambda picture, target, folder: target.unlink(),
        lambda picture, target, folder: target.write_bytes(b"larger"),
        lambda picture, target, folder: target.write_bytes(b"LARGER PICTURE"),
        lambda picture, target, folder: target.rename(target.with_name("b.png")),
        lambda picture, target, folder: (folder / NAME).unlink(),
    ],
)
def test_a_result_is_not_finished_when_picture_or_result_are_others(batch, change):
    change(*batch)
    assert not is_finished(batch)


@pytest.mark.parametrize("settings", [{**SETTINGS, "quality": 91}, {**SETTINGS, "model": ["abd"]}, {}])
def test_a_result_of_other_settings_is_not_finished(batch, settings):
    assert not is_finished(batch, settings)
    assert is_finished(batch), "the line of the first settings is still there"


def test_the_record_may_be_cut_anywhere(batch):
    record = batch[2] / NAME
    whole = record.read_bytes()
    done_at = whole.index(b'{"done"')
    for length in (
        *range(0, len(whole), 11),
        done_at - 2,
        done_at - 1,
        done_at,
        *range(len(whole) - 2, len(whole) + 1),
    ):
        record.write_bytes(whole[:length])
        assert is_finished(batch) == (length >= len(whole) - 1)  # the last byte ends the line
        with Manifest(batch[2], SETTINGS, resume=True) as manifest:
            assert manifest.may_replace(batch[1]) == (length >= done_at - 1)
        lines = record.read_bytes().splitlines()
        assert json.loads(lines[-1])["settings"] == SETTINGS, "what is appended stands on a line of its own"


def test_rubbish_in_the_record_is_passed_over(batch):
    record = batch[2] / NAME
    record.write_bytes(b"\xff\n[1]\nnull\n5\n{}\n" + record.read_bytes() + b'{"done": "x"}\n{"begun": []}\n')
    assert is_finished(batch)


def test_only_what_this_batch_has_begun_may_be_replaced(batch):
    _, target, folder = batch
    (folder / "mine.png").write_bytes(b"mine")
    with Manifest(folder, SETTINGS, resume=True) as manifest:
        assert manifest.may_replace(target)
        assert not manifest.may_replace(folder / "mine.png")
        manifest.begin(folder / "mine.png")
    with Manifest(folder, SETTINGS, resume=True) as manifest:
        assert manifest.may_replace(folder / "mine.png")
    with Manifest(folder, SETTINGS, resume=False) as manifest:
        assert not manifest.may_replace(target)


def test_names_of_any_bytes_come_back(tmp_path):
    target = tmp_path / os.fsdecode(b"a\n\xff.png")
    target.write_bytes(b"x")
    with Manifest(tmp_path, SETTINGS, resume=False) as manifest:
        manifest.finish(target, Content.of(target), {})
    (tmp_path / NAME).read_bytes().decode("ascii")
    assert is_finished((target, target, tmp_path))


def test_the_conditions_of_the_last_batch_are_kept(batch, tmp_path):
    assert conditions_of(batch[2]) == {"memory": 5}
    with Manifest(batch[2], SETTINGS, {"memory": 7}, resume=True) as manifest:
        assert manifest.earlier == SETTINGS
    assert conditions_of(batch[2]) == {"memory": 7}
    assert conditions_of(tmp_path / "none") == {}


def test_a_folder_is_written_by_one_at_a_time(batch):
    with Manifest(batch[2], SETTINGS, resume=True), pytest.raises(UsageError, match="another nlsr writes there"):
        Manifest(batch[2], SETTINGS, resume=True).__enter__()
    assert is_finished(batch)


def test_a_folder_is_written_by_one_at_a_time_on_windows_too(batch, monkeypatch):
    """Windows has no flock, and nobody else can read a byte that is locked: one beyond all records is taken."""
    locked = set()

    def locking(descriptor, mode, count):
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        assert (mode, count) == ("no wait", 1)
        assert place > os.fstat(descriptor).st_size
        if place in locked:
            raise PermissionError(errno.EACCES, "locked")
        locked.add(place)

    monkeypatch.setattr("nlsr.upscale.batch.manifest.fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK="no wait"))
    with Manifest(batch[2], SETTINGS, resume=True), pytest.raises(UsageError, match="another nlsr writes there"):
        Manifest(batch[2], SETTINGS, resume=True).__enter__()
    locked.clear()  # the system drops the lock with the file
    assert is_finished(batch)


def test_a_folder_that_cannot_be_one_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ImageError, match="file/out: expected a folder to write in"):
        Manifest(tmp_path / "file" / "out", SETTINGS, resume=False).__enter__()


def test_a_full_disk_is_one_line(batch, monkeypatch):
    with Manifest(batch[2], SETTINGS, resume=True) as manifest:

        def full(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ImageError, match=r"cannot be written \(No space left on device\)"):
            manifest.begin(batch[1])


def test_what_killed_processes_left_is_removed_and_nothing_else(batch):
    _, target, folder = batch
    (target.parent / ".b.png.0123abcd.part").write_bytes(b"half")
    (target.parent / "c.part").write_bytes(b"mine")
    with Manifest(folder, SETTINGS, resume=True) as manifest:
        manifest.clean({folder, target.parent, folder / "none"})
    assert sorted(path.name for path in target.parent.iterdir()) == ["a.png", "c.part"]


def test_a_lock_that_is_not_there_stops_nobody(batch, monkeypatch):
    import fcntl

    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert is_finished(batch)
