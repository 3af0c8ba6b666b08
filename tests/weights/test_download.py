"""nlsr weights get, against a server of this machine: cut connections, other files, proxies, full disks."""

import errno
import hashlib
import http.server
import io
import os
import re
import socket
import threading
from dataclasses import replace

import pytest
import torch

from nlsr.errors import CheckpointError
from nlsr.networks import PAN, PANConfig
from nlsr.weights import catalogue, find, load
from nlsr.weights.catalogue import KnownFile
from nlsr.weights.download import download

CONTENT = bytes(range(256)) * 1000


class Server:
    """Serves one file, as its attributes say; remembers what was asked."""

    def __init__(self):
        self.content, self.cut_after, self.ranges, self.status = CONTENT, None, True, 200
        self.asked = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                start = int(self.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
                server.asked.append((self.path, start))
                start = start if server.ranges else 0
                if server.status != 200 or start >= len(server.content):
                    self.send_error(416 if server.status == 200 else server.status)
                    return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(server.content) - start))
                self.end_headers()
                self.wfile.write(server.content[start : server.cut_after])

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    serving = Server()
    yield serving
    serving.http.shutdown()
    serving.http.server_close()


@pytest.fixture
def known(server):
    digest = hashlib.sha256(CONTENT).hexdigest()
    return KnownFile("weights.pth", "pan", 2, "somewhere", "MIT", digest, f"{server.address}/weights.pth", "photos")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "weights.pth"


def refused(known, target, message):
    with pytest.raises(CheckpointError, match=message) as info:
        download(known, target)
    assert "\n" not in str(info.value)
    assert not target.exists()


def test_a_file_is_fetched_whole_and_progress_is_reported(known, target):
    seen = []
    assert download(known, target, report=lambda done, total: seen.append((done, total))) == target
    assert target.read_bytes() == CONTENT
    assert [file.name for file in target.parent.iterdir()] == ["weights.pth"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_cut_download_is_continued_where_it_stopped(server, known, target):
    server.cut_after = 100_000
    refused(known, target, "the connection was cut after 100000 of 256000 bytes; the same command continues")
    server.cut_after = None
    download(known, target)
    assert target.read_bytes() == CONTENT
    assert [start for _, start in server.asked] == [0, 100_000]


def test_a_server_that_cannot_continue_begins_anew(server, known, target):
    server.cut_after = 100_000
    refused(known, target, "was cut")
    server.cut_after, server.ranges = None, False
    download(known, target)
    assert target.read_bytes() == CONTENT


def test_another_file_is_refused_and_not_kept(server, known, target):
    server.content = b"x" * 300_000
    refused(known, target, f"expected a file of SHA-256 {known.sha256}, got .*; it was refused, nothing is kept")
    assert list(target.parent.iterdir()) == []
    server.content = CONTENT
    download(known, target)


def test_more_than_the_server_has_is_no_beginning(server, known, target):
    server.content, server.cut_after = b"x" * 300_000, 280_000
    refused(known, target, "was cut")
    server.content, server.cut_after = CONTENT, None
    download(known, target)
    assert target.read_bytes() == CONTENT


def test_a_whole_part_is_not_asked_for_again(server, known, target):
    server.cut_after = 100_000
    refused(known, target, "was cut")
    (part,) = target.parent.iterdir()
    part.write_bytes(CONTENT)
    download(known, target)
    assert len(server.asked) == 1


def test_what_the_server_answers_is_said(server, known, target):
    server.status = 404
    refused(known, target, r"weights.pth: the server answers 404 Not Found; try again later")


def test_no_network_is_said(known, target):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens there
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/weights.pth"
        refused(replace(known, address=address), target, r"cannot be reached \(.*\); is there a network, or a proxy")


def test_the_proxy_of_the_environment_is_asked(server, known, target, monkeypatch):
    monkeypatch.setenv("http_proxy", server.address)
    download(replace(known, address="http://nowhere.invalid/folder/weights.pth"), target)
    assert target.read_bytes() == CONTENT
    assert server.asked == [("http://nowhere.invalid/folder/weights.pth", 0)]


def test_a_full_disk_is_said_and_the_download_continues_when_there_is_room(server, known, target, monkeypatch):
    server.cut_after = 100_000
    refused(known, target, "was cut")
    server.cut_after = None

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        refused(known, target, "the disk is full; free some space, and the same command continues the download")
    download(known, target)
    assert target.read_bytes() == CONTENT


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
def test_what_a_full_disk_refuses_is_said(known, target):
    target.parent.mkdir(parents=True)
    part = target.parent / f".weights.pth.{known.sha256[:8]}.part"
    part.symlink_to("/dev/full")
    refused(known, target, f"{re.escape(str(target.parent))}: the disk is full; free some space, and the same command")


def test_a_cache_that_cannot_be_written_is_said(known, tmp_path):
    (tmp_path / "file").touch()
    refused(known, tmp_path / "file" / "weights.pth", "cannot be written .*; set NLSR_CACHE")


@pytest.fixture
def published(server, known, tmp_path, monkeypatch):
    """A PAN of x2 at the server, as the only file that can be downloaded."""
    from tests.evaluate.test_models import as_published

    torch.save(as_published(PAN(PANConfig(2, channels=8, upsampler_channels=4, num_blocks=1))), tmp_path / "pan.pth")
    server.content = (tmp_path / "pan.pth").read_bytes()
    file = replace(known, sha256=hashlib.sha256(server.content).hexdigest())
    monkeypatch.setattr(catalogue, "PUBLISHED_FILES", [file])
    monkeypatch.setenv("NLSR_CACHE", str(tmp_path / "cache"))
    return file


def test_the_command_shows_the_terms_asks_and_makes_the_name_known(nlsr, server, published, monkeypatch):
    with pytest.raises(CheckpointError, match="pan-x2 is not on this machine; get it with: nlsr weights get pan-x2"):
        load("pan-x2")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, out, err = nlsr("weights", "get", "pan-x2")
    assert (code, server.asked) == (2, [])
    assert "licence: MIT" in out
    assert "trained on: photos" in out
    assert published.address in out
    assert err.endswith("agree to the licence and the terms above with --yes\n")
    code, out, err = nlsr("weights", "get", "pan-x2", "--yes")
    assert (code, err) == (0, "")
    assert out.endswith("pan-x2.pth, SHA-256 as known\n")
    assert load("pan-x2").scale == load("pan").scale == 2
    assert find("pan-x2").is_file()
    assert "is here already" in nlsr("weights", "get", "pan", "--yes")[1]
    assert len(server.asked) == 1


@pytest.mark.parametrize(("answer", "code", "asked"), [(True, 0, 1), (False, 1, 0)])
def test_an_answer_decides(nlsr, server, published, monkeypatch, answer, code, asked):
    monkeypatch.setattr("typer.confirm", lambda *_, **__: answer)
    assert nlsr("weights", "get", "pan-x2")[0] == code
    assert len(server.asked) == asked


def test_a_name_that_cannot_be_had_is_named(nlsr, published):
    code, _, err = nlsr("weights", "get", "lcoan-x4", "--yes")
    assert (code, err) == (2, "weights: lcoan-x4: expected one of pan-x2\n")


def test_the_files_that_can_be_had_are_at_fixed_commits():
    known = catalogue.downloads()
    assert {"smfanet-x4", "smfanet-plus-x2", "smfanet-plus-x4", "pan-x3"} <= known.keys()
    for file in known.values():
        assert len(file.sha256) == 64
        commit = file.address.removeprefix("https://raw.githubusercontent.com/").split("/")[2]
        assert len(commit) == 40
        assert file.address.endswith("/" + file.name)
        assert "academic research" in file.trained_on
