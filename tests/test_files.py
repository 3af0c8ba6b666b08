"""Files that are written whole or not at all: what processes leave, what they share, and links."""

import os
import signal
import subprocess
import sys

import pytest

from nlsr.files import is_unfinished, remove_all_abandoned, replacing

needs_locks = pytest.mark.skipif(os.name == "nt", reason="Windows goes by the time a file was written")
WRITE = """
import sys
from nlsr.files import replacing
with replacing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


def writer(path):
    """A process that writes a file until its standard input ends."""
    words = [sys.executable, "-c", WRITE, str(path)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    return process


def ended(process):
    process.communicate("")
    return process.returncode


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@needs_locks
def test_a_later_run_removes_what_a_killed_one_left_and_nothing_of_a_running_one(tmp_path):
    path = tmp_path / "a.png"
    killed, running = writer(path), writer(path)
    try:
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        left = names(tmp_path)
        assert len(left) == 2
        assert all(map(is_unfinished, left))
        with replacing(path) as file:
            file.write(b"new")
        assert path.read_bytes() == b"new"
        assert len(names(tmp_path)) == 2  # the result, and what the running one writes
    finally:
        code = ended(running)
    assert code == 0
    assert names(tmp_path) == ["a.png"]
    assert path.read_bytes() == b"half"  # the last one to end wins


@needs_locks
def test_what_is_left_of_another_file_stays(tmp_path):
    killed = writer(tmp_path / "a.png")
    killed.kill()
    killed.communicate()
    with replacing(tmp_path / "b.png"):
        pass
    assert len(names(tmp_path)) == 2
    remove_all_abandoned(tmp_path)
    assert names(tmp_path) == ["b.png"]


@needs_locks
def test_a_folder_is_cleaned_while_a_file_in_it_is_written(tmp_path):
    (tmp_path / ".old.0123abcd.part").touch()
    with replacing(tmp_path / "a.png") as file:
        remove_all_abandoned(tmp_path)
        assert len(names(tmp_path)) == 1
        file.write(b"whole")
    assert (tmp_path / "a.png").read_bytes() == b"whole"


def test_where_there_are_no_locks_time_tells(tmp_path, monkeypatch):
    monkeypatch.setattr("nlsr.files.fcntl", None)
    old, new = tmp_path / ".a.0123abcd.part", tmp_path / ".b.0123abcd.part"
    for path in (old, new):
        path.touch()
    os.utime(old, (1, 1))
    remove_all_abandoned(tmp_path)
    assert names(tmp_path) == [new.name]
    with replacing(tmp_path / "a") as file:
        file.write(b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a"):
        raise KeyboardInterrupt
    assert names(tmp_path) == [new.name, "a"]


def test_so_many_writers_of_one_file_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("nlsr.files._MOST_WRITERS", 1)
    expected = pytest.raises(OSError, match="1 processes write it already")
    with replacing(tmp_path / "a"), expected, replacing(tmp_path / "a"):
        pass


@pytest.fixture
def link(tmp_path):
    (tmp_path / "far").mkdir()
    path = tmp_path / "link.png"
    try:
        path.symlink_to(tmp_path / "far" / "a.png")
    except OSError:
        pytest.skip("this system lets nobody make links")
    return path


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed_and_stays(tmp_path, link, there):
    if there:
        (tmp_path / "far" / "a.png").write_bytes(b"old")
    with replacing(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert (tmp_path / "far" / "a.png").read_bytes() == b"new"
    assert names(tmp_path) == ["far", "link.png"]


def test_links_in_a_circle_are_an_error(tmp_path, link):
    (tmp_path / "far" / "a.png").symlink_to(link)
    with pytest.raises(OSError, match="symbolic links"), replacing(link):
        pass
    assert link.is_symlink()


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
@pytest.mark.parametrize("mode", [0o600, 0o664, 0o444, 0o755])
def test_a_file_that_is_replaced_passes_on_its_permissions(tmp_path, mode):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    path.chmod(mode)
    with replacing(path) as file:
        (part,) = (tmp_path / name for name in names(tmp_path) if is_unfinished(name))
        assert part.stat().st_mode & 0o777 == mode | 0o200  # others see nothing before it is finished either
        file.write(b"new")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", mode)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away")
def test_a_file_that_is_replaced_keeps_its_owner(tmp_path):
    path = tmp_path / "a.png"
    path.touch()
    os.chown(path, 12345, 23456)
    with replacing(path) as file:
        file.write(b"new")
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)
