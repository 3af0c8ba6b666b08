"""Batches on a Ray cluster of two nodes on this machine: the files are those of one process, whatever ends half-way."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nlsr.networks import LCoAN, LCoANConfig
from nlsr.weights import save_network

pytest.importorskip("ray", reason="needs ray: pip install 'nlsr[ray]'")
# Ray leaves sockets and files to its processes, and warns of its own options.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("cluster")]

MIB = 2**20
BUDGET = ("--memory", "200MiB", "--threads", "1")


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster of two nodes with a processor each."""
    from ray.cluster_utils import Cluster

    import nlsr.ray  # noqa: F401 - before Ray, which reads then that it must tell nobody

    node = dict(num_cpus=1, memory=1024 * MIB, object_store_memory=80 * MIB)
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    cluster.add_node(**node)
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_network(path, LCoAN(LCoANConfig(2, channels=8, num_groups=2, num_blocks=1, num_clusters=4, chunk_size=16)))
    return path


def pictures(folder, count):
    """Of three formats, grey, with colours and with alpha, in two folders; every tenth is bad."""
    random = np.random.default_rng(0)
    for i in range(count):
        path = folder / ("above", "above/below")[i % 2] / f"{i:03}.{('png', 'jpg', 'webp')[i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        channels = ((), (3,), (4,))[0 if i % 5 == 0 else 2 if i % 3 == 2 else 1]
        Image.fromarray(random.integers(0, 256, (20 + i % 7, 24 + i % 5, *channels), dtype=np.uint8)).save(path)
        if i % 10 == 9:
            path.write_bytes(path.read_bytes()[: 40 * (i % 4)])
    return folder


def tree(folder):
    """Names and contents, without the record, which tells times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".nlsr-batch.jsonl"
    }


def command(*words):
    return [sys.executable, "-m", "nlsr", "upscale", *map(str, words)]


def below(pid):
    """The processes that a process started, and those that they started."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                yield int(folder.name)
                yield from below(int(folder.name))


def workers():
    """The processes that compute, of the cluster that this process started."""
    names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in below(os.getpid())}
    return [pid for pid, name in names.items() if name.startswith(b"ray::MapWorker")]


def finished(folder):
    record = folder / ".nlsr-batch.jsonl"
    return record.read_bytes().count(b'"done"') if record.exists() else 0


def test_files_and_failures_are_those_of_one_process(nlsr, cluster, model, tmp_path):
    source = pictures(tmp_path / "in", 30)
    code, _, alone = nlsr("upscale", source, "-o", tmp_path / "one", "-m", model, *BUDGET)
    assert code == 1
    code, out, err = nlsr("upscale", source, "-o", tmp_path / "two", "-m", model, *BUDGET, "--ray", cluster, "--json")
    assert code == 1
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
    assert len(tree(tmp_path / "two")) == 27
    assert sorted(err.splitlines()[-3:]) == sorted(alone.splitlines()[-3:])
    told = [json.loads(line) for line in out.splitlines()]
    assert sorted(each["status"] for each in told) == ["done"] * 27 + ["failed"] * 3

    code, out, _ = nlsr(
        "upscale", source, "-o", tmp_path / "two", "-m", model, *BUDGET, "--ray", cluster, "--json", "--resume"
    )
    assert sorted(json.loads(line)["status"] for line in out.splitlines()) == ["failed"] * 3 + ["skipped"] * 27


def test_a_killed_worker_and_a_killed_driver_change_nothing(nlsr, cluster, model, tmp_path):
    source = pictures(tmp_path / "in", 60)
    nlsr("upscale", source, "-o", tmp_path / "one", "-m", model, *BUDGET)
    words = (source, "-o", tmp_path / "two", "-m", model, *BUDGET, "--ray", cluster)
    driver = subprocess.Popen(command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not finished(tmp_path / "two"):
        assert driver.poll() is None
        time.sleep(0.01)
    os.kill(workers()[0], signal.SIGKILL)
    before = finished(tmp_path / "two")
    while finished(tmp_path / "two") == before:
        assert driver.poll() is None
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    assert finished(tmp_path / "two") < 54
    code, out, _ = nlsr("upscale", *words, "--resume")
    assert code == 1
    assert "were finished before" in out
    assert tree(tmp_path / "two") == tree(tmp_path / "one")


def test_rows_of_a_dataset_are_enlarged_and_bad_ones_say_why(cluster, model):
    import io

    import ray

    import nlsr.ray

    array = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    with nlsr.ray.cluster(cluster):
        rows = ray.data.from_items([{"name": "good", "image": file.getvalue()}, {"name": "bad", "image": b"none"}])
        options = dict(model=model, memory="200MiB", workers=1)
        good, bad = sorted(nlsr.ray.upscale(rows, **options).take_all(), key=lambda row: row["name"] == "bad")
        (enlarged,) = nlsr.ray.upscale(ray.data.from_items([{"image": array}]), **options).take_all()
    expected = nlsr.Upscaler(model, memory="200MiB")(array)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(good["image"]))), expected)
    np.testing.assert_array_equal(enlarged["image"], expected)
    assert (good["error"], enlarged["error"]) == ("", "")
    assert bad["image"] == b""
    assert bad["error"].startswith("expected PNG, JPEG")


def test_what_cannot_be_is_said_in_one_line_before_anything_is_begun(nlsr, cluster, model, tmp_path):
    source = pictures(tmp_path / "in", 2)
    out = tmp_path / "out"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
        cases = {
            ("--memory", "200MiB", "--ray", nobody): "cannot be reached",
            ("--memory", "900MiB", "--threads", "1", "--ray", cluster): "allow less with --memory",
            ("--memory", "200MiB", "--threads", "2", "--ray", cluster): "ask for less with --threads 1",
            ("--workers", "2"): "expected --ray",
        }
        for words, told in cases.items():
            code, _, err = nlsr("upscale", source, "-o", out, "-m", model, *words)
            assert (code, len(err.splitlines())) == (2, 1), err
            assert told in err
    assert tree(out) == {}
    code, _, err = nlsr("upscale", source / "above" / "000.png", "-m", model, "--ray", cluster)
    assert (code, "expected -o FOLDER" in err) == (2, True)


def test_two_jobs_do_not_share_an_output(nlsr, cluster, model, tmp_path):
    from nlsr.upscale.batch import Manifest

    with Manifest(tmp_path / "out", {}, resume=False):
        code, _, err = nlsr("upscale", pictures(tmp_path / "in", 2), "-o", tmp_path / "out", "--ray", cluster)
    assert (code, "another nlsr writes there" in err) == (2, True)


def test_nobody_is_told(cluster):
    from ray._common.usage import usage_lib

    assert not usage_lib.usage_stats_enabled()
