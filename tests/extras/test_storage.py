"""Pictures and results on object storage: a server of S3 on this machine, which is not ours."""

import json
import os
import signal
import subprocess
import sys
import time

import fsspec
import numpy as np
import pytest
from PIL import Image

from nlsr.networks import LCoAN, LCoANConfig
from nlsr.weights import save_network

pytest.importorskip("s3fs", reason="needs s3fs: pip install 'nlsr[s3]'")
pytest.importorskip("moto.server", reason="needs moto: pip install 'moto[server]'")
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def server():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server, monkeypatch):
    """An address of a new bucket, and what a user sets to reach it."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()
    storage = fsspec.filesystem("s3")
    name = f"bucket-{time.monotonic_ns()}"
    storage.mkdir(name)
    yield name
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_network(path, LCoAN(LCoANConfig(2, channels=8, num_groups=2, num_blocks=1, num_clusters=4, chunk_size=16)))
    return path


def pictures(folder, count):
    random = np.random.default_rng(0)
    for i in range(count):
        path = folder / ("above", "above/below")[i % 2] / f"{i:03}.{('png', 'jpg', 'webp')[i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20 + i % 7, 24 + i % 5, 3), dtype=np.uint8)).save(path)
        if i % 5 == 4:
            path.write_bytes(path.read_bytes()[: 40 * (i % 4)])
    return folder


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".nlsr-batch.jsonl"
    }


def stored(address):
    """Names and contents of results, without the record."""
    storage = fsspec.filesystem("s3")
    storage.invalidate_cache()
    found = {name.removeprefix(f"{address}/"): storage.cat_file(name) for name in storage.find(address)}
    return {name: content for name, content in found.items() if not name.startswith(".nlsr-batch/")}


def test_results_are_those_of_files_and_are_recognised(nlsr, bucket, model, tmp_path):
    source = pictures(tmp_path / "in", 10)
    assert nlsr("upscale", source, "-o", tmp_path / "out", "-m", model)[0] == 1
    fsspec.filesystem("s3").put(f"{source}/", f"{bucket}/in/", recursive=True)
    words = ("upscale", f"s3://{bucket}/in", "-o", f"s3://{bucket}/in/out", "-m", model, "--json")
    code, out, err = nlsr(*words)
    assert code == 1
    assert stored(f"{bucket}/in/out") == tree(tmp_path / "out")
    assert f"s3://{bucket}/in/above/004.jpg" in err
    told = [json.loads(line) for line in out.splitlines()]
    assert told[0]["output"].startswith(f"s3://{bucket}/in/out/above")

    code, out, _ = nlsr(*words)
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["failed"] * 10
    fsspec.filesystem("s3").put_file(source / "above" / "002.webp", f"{bucket}/in/above/000.png")
    code, out, _ = nlsr(*words, "--resume")
    status = {json.loads(line)["input"].rpartition("/")[2]: json.loads(line)["status"] for line in out.splitlines()}
    assert [name for name, each in status.items() if each == "done"] == ["000.png"]
    assert sorted(status.values()) == ["done"] + ["failed"] * 2 + ["skipped"] * 7


def test_a_single_picture_comes_and_goes(nlsr, bucket, model, tmp_path):
    (picture,) = tree(pictures(tmp_path / "in", 1))
    fsspec.filesystem("s3").put_file(tmp_path / "in" / picture, f"{bucket}/one.png")
    assert nlsr("upscale", f"s3://{bucket}/one.png", "-o", tmp_path / "here.png", "-m", model)[0] == 0
    assert nlsr("upscale", tmp_path / "in" / picture, "-o", f"s3://{bucket}/there.png", "-m", model)[0] == 0
    assert fsspec.filesystem("s3").cat_file(f"{bucket}/there.png") == (tmp_path / "here.png").read_bytes()
    code, _, err = nlsr("upscale", tmp_path / "in" / picture, "-o", f"s3://{bucket}/there.png", "-m", model)
    assert (code, f"s3://{bucket}/there.png: exists already" in err) == (2, True)


def test_a_killed_batch_continues(nlsr, bucket, model, tmp_path):
    source = pictures(tmp_path / "in", 40)
    nlsr("upscale", source, "-o", tmp_path / "out", "-m", model)
    fsspec.filesystem("s3").put(f"{source}/", f"{bucket}/in/", recursive=True)
    words = ("upscale", f"s3://{bucket}/in", "-o", f"s3://{bucket}/out", "-m", model)
    command = [sys.executable, "-m", "nlsr", *map(str, words)]
    killed = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for _ in range(3):
        killed.stdout.readline()
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert 0 < len(stored(f"{bucket}/out")) < 32
    assert nlsr(*words, "--resume")[0] == 1
    assert stored(f"{bucket}/out") == tree(tmp_path / "out")


def test_what_is_wrong_is_said_in_one_line(nlsr, bucket, model, tmp_path, monkeypatch):
    (picture,) = tree(pictures(tmp_path / "in", 1))
    there = tmp_path / "in" / picture
    cases = {
        ("s3://no-such-bucket/in", "-o", tmp_path / "out"): "there is none|the bucket does not exist",
        (f"s3://{bucket}/nothing", "-o", tmp_path / "out"): "there is none",
        (there, "-o", "s3://no-such-bucket/out.png"): "the bucket does not exist",
        (there, "-o", "nowhere://bucket/out.png"): "expected an address like s3://",
        (there, "-o", "gs://bucket/out.png"): "pip install gcsfs",
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
