"""Pictures and results on object storage: a server of S3 on this machine, which is not ours."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from importlib import import_module

import fsspec
import numpy as np
import pytest
from PIL import Image
from tests.extras.batches import copied, pictures, tree

pytest.importorskip("s3fs", reason="needs s3fs: pip install 'nlsr[s3]'")
pytestmark = pytest.mark.filterwarnings("default")


def statuses(out):
    """The status of each picture by its name, from lines of JSON."""
    lines = [json.loads(line) for line in out.splitlines()]
    return {line["input"].rpartition("/")[2]: line["status"] for line in lines}


def test_results_are_those_of_files_and_are_recognised(nlsr, bucket, model, tmp_path):
    source = pictures(tmp_path / "in", 10)
    assert nlsr("upscale", source, "-o", tmp_path / "out", "-m", model)[0] == 1
    there = copied(source, f"s3://{bucket}/in")
    words = ("upscale", there, "-o", f"{there}/out", "-m", model, "--json")
    code, out, err = nlsr(*words)
    assert code == 1
    assert tree(f"{there}/out") == tree(tmp_path / "out")
    assert f"{there}/above/below/009.png" in err
    assert json.loads(out.splitlines()[0])["output"].startswith(f"{there}/out/above")

    assert set(statuses(nlsr(*words)[1]).values()) == {"failed"}
    fsspec.filesystem("s3").put_file(source / "above" / "002.webp", f"{there}/above/000.png")
    status = statuses(nlsr(*words, "--resume")[1])
    assert [name for name, each in status.items() if each == "done"] == ["000.png"]
    assert sorted(status.values()) == ["done", "failed"] + ["skipped"] * 8


def test_a_single_picture_comes_and_goes(nlsr, bucket, model, tmp_path):
    (picture,) = tree(pictures(tmp_path / "in", 1))
    here, there = tmp_path / "in" / picture, f"s3://{bucket}/there.png"
    fsspec.filesystem("s3").put_file(here, f"{bucket}/one.png")
    assert nlsr("upscale", f"s3://{bucket}/one.png", "-o", tmp_path / "here.png", "-m", model)[0] == 0
    assert nlsr("upscale", here, "-o", there, "-m", model)[0] == 0
    assert fsspec.filesystem("s3").cat_file(there) == (tmp_path / "here.png").read_bytes()
    code, _, err = nlsr("upscale", here, "-o", there, "-m", model)
    assert (code, f"{there}: exists already" in err) == (2, True)


def test_a_killed_batch_continues(nlsr, bucket, model, tmp_path):
    source = pictures(tmp_path / "in", 40)
    nlsr("upscale", source, "-o", tmp_path / "out", "-m", model)
    words = ("upscale", copied(source, f"s3://{bucket}/in"), "-o", f"s3://{bucket}/out", "-m", model)
    command = [sys.executable, "-m", "nlsr", *map(str, words)]
    killed = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for _ in range(3):
        killed.stdout.readline()
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert 0 < len(tree(f"s3://{bucket}/out")) < 36
    assert nlsr(*words, "--resume")[0] == 1
    assert tree(f"s3://{bucket}/out") == tree(tmp_path / "out")


def test_credentials_that_expire_end_a_batch_which_continues_with_others(nlsr, s3, bucket, model, tmp_path):
    """The server takes so many requests, and then only credentials that it knows, which these are not."""

    def takes(requests):
        told = dict(data=str(requests).encode(), headers={"Content-Type": "text/plain"})
        urllib.request.urlopen(urllib.request.Request(f"{s3}/moto-api/reset-auth", **told)).close()

    source = pictures(tmp_path / "in", 20)
    nlsr("upscale", source, "-o", tmp_path / "out", "-m", model)
    words = ("upscale", copied(source, f"s3://{bucket}/in"), "-o", f"s3://{bucket}/out", "-m", model, "--json")
    takes(25)
    try:
        code, out, err = nlsr(*words)
    finally:
        takes(1e9)
    assert code == 1
    assert list(statuses(out).values()).count("failed") < 4, err
    assert re.search(r"credentials are missing or no longer valid", err), err
    assert "the same command with --resume continues" in err
    fsspec.filesystem("s3").rm_file(f"{bucket}/out/.nlsr-batch/writing")  # here its process has not ended
    assert nlsr(*words, "--resume")[0] == 1
    assert tree(f"s3://{bucket}/out") == tree(tmp_path / "out")


def test_a_picture_that_cannot_be_had_is_named_once_in_a_line(nlsr, bucket, model, tmp_path, monkeypatch):
    def gone(*_, **__):
        raise FileNotFoundError("it was removed after it was listed")

    there = copied(pictures(tmp_path / "in", 2), f"s3://{bucket}/in")
    monkeypatch.setattr(fsspec.filesystem("s3"), "get_file", gone)
    code, out, err = nlsr("upscale", there, "-o", f"{there}/out", "-m", model, "--json")
    assert code == 1
    assert [line.count("000.png") for line in err.splitlines() if "000.png" in line] == [1, 1], err
    assert json.loads(out.splitlines()[0])["error"].startswith("expected a file or folder, but there is none")


@pytest.mark.parametrize(("kind", "package"), [("gs", "gcsfs"), ("hf", "huggingface_hub"), ("az", "adlfs")])
def test_what_a_kind_of_address_needs_is_named(nlsr, tmp_path, monkeypatch, kind, package):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    monkeypatch.setattr(import_module("fsspec.registry"), "_registry", {})
    code, _, err = nlsr("upscale", f"{kind}://bucket/in", "-o", tmp_path / "out")
    assert (code, len(err.splitlines())) == (2, 1), err
    assert f"{kind}:// needs another package; install it with: " in err
    assert err.strip().endswith(f"install {package}")


def test_what_is_wrong_is_said_in_one_line(nlsr, bucket, model, tmp_path, monkeypatch):
    (picture,) = tree(pictures(tmp_path / "in", 1))
    there = tmp_path / "in" / picture
    cases = {
        ("s3://no-such-bucket/in", "-o", tmp_path / "out"): "there is none|the bucket does not exist",
        (f"s3://{bucket}/nothing", "-o", tmp_path / "out"): "there is none",
        (there, "-o", "s3://no-such-bucket/out.png"): "the bucket does not exist",
        (there, "-o", "nowhere://bucket/out.png"): "expected an address like s3://",
    }
    for words, told in cases.items():
        code, _, err = nlsr("upscale", *words, "-m", model)
        assert (code, len(err.splitlines())) == (2, 1), err
        assert any(each in err for each in told.split("|")), err
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.filesystem("s3").clear_instance_cache()
    code, _, err = nlsr("upscale", f"s3://{bucket}/in", "-o", tmp_path / "out", "-m", model)
    assert (code, "credentials" in err, len(err.splitlines())) == (2, True, 1), err


def test_two_jobs_do_not_share_an_output(nlsr, bucket, model, tmp_path):
    fsspec.filesystem("s3").pipe_file(
        f"{bucket}/out/.nlsr-batch/writing", json.dumps({"host": "another", "pid": 1, "time": time.time()}).encode()
    )
    source = pictures(tmp_path / "in", 2)
    code, _, err = nlsr("upscale", source, "-o", f"s3://{bucket}/out/", "-m", model)
    assert (code, f"s3://{bucket}/out: another nlsr writes there" in err) == (2, True)


def test_a_folder_is_evaluated_from_a_cache_of_bounded_size(nlsr, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("NLSR_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(random.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
        fsspec.filesystem("s3").put(f"{tmp_path / name}/", f"{bucket}/{name}/", recursive=True)
    words = ("evaluate", "-m", "bicubic", "-s", "2", "--json", "-d")
    for name in ("one", "two"):
        code, out, _ = nlsr(*words, f"s3://{bucket}/{name}")
        assert (code, out) == (0, nlsr(*words, tmp_path / name)[1])
    copies = list((tmp_path / "cache" / "storage").iterdir())
    assert len(copies) == 2

    fsspec.filesystem("s3").put_file(tmp_path / "one" / "1.png", f"{bucket}/one/0.png")
    fsspec.filesystem("s3").rm_file(f"{bucket}/two/1.png")
    (tmp_path / "one" / "0.png").write_bytes((tmp_path / "one" / "1.png").read_bytes())
    (tmp_path / "two" / "1.png").unlink()
    monkeypatch.setenv("NLSR_STORAGE_CACHE", "13KB")
    for name in ("one", "two"):
        code, out, _ = nlsr(*words, f"s3://{bucket}/{name}")
        assert (code, out) == (0, nlsr(*words, tmp_path / name)[1])
    assert len(list((tmp_path / "cache" / "storage").iterdir())) == 1

    monkeypatch.setenv("NLSR_STORAGE_CACHE", "1KB")
    code, _, err = nlsr(*words, f"s3://{bucket}/one")
    assert (code, "allow more with NLSR_STORAGE_CACHE" in err) == (2, True)
