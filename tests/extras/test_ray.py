"""Batches on a Ray cluster of two nodes on this machine: the files are those of one process, whatever ends half-way."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.extras.batches import copied, names, pictures, tree

from nlsr.networks import LCoAN, LCoANConfig
from nlsr.weights import save_network

pytest.importorskip("ray", reason="needs ray: pip install 'nlsr[ray]'")
pytest.importorskip("s3fs", reason="needs s3fs: pip install 'nlsr[s3]'")
# Ray leaves sockets and files to its processes, and warns of its own options.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("cluster")]

MIB = 2**20
BUDGET = ("--memory", "200MiB", "--threads", "1")
OPERATOR = """
from nlsr.attention import NonLocal, register

class Own(NonLocal):
    pass

own = "operator-of-a-test"
register(own, Own)
"""
COUNT = int(os.environ.get("NLSR_PICTURES", "40"))
"""Pictures of a job whose processes are killed."""


@pytest.fixture(scope="module")
def cluster(s3):
    """The address of a cluster of two nodes with a processor each."""
    from ray.cluster_utils import Cluster

    import nlsr.ray  # noqa: F401 - before Ray, which reads then that it must tell nobody

    node = dict(num_cpus=1, memory=1024 * MIB, object_store_memory=80 * MIB)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_worker_niceness", "0")  # else a busy machine lets workers wait
        cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
        cluster.add_node(**node)
    yield cluster.address
    cluster.shutdown()


def command(*words):
    return [sys.executable, "-m", "nlsr", *map(str, words)]


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


def more_results(driver, place, count):
    """How many results there are, when there are more than so many."""
    while (now := len([name for name in names(place) if name.endswith(".png")])) <= count:
        assert driver.poll() is None, driver.stderr.read()
        time.sleep(0.01)
    return now


@pytest.mark.parametrize("kind", ["disk", "s3"])
def test_files_and_failures_are_those_of_one_process_though_a_worker_and_the_driver_are_killed(
    nlsr, cluster, model, tmp_path, bucket, kind
):
    source, one, two = pictures(tmp_path / "in", COUNT), tmp_path / "one", tmp_path / "two"
    code, _, alone = nlsr("upscale", source, "-o", one, "-m", model, *BUDGET)
    assert code == 1
    if kind == "s3":
        alone = alone.replace(str(source), f"s3://{bucket}/in")
        source, two = copied(source, f"s3://{bucket}/in"), f"s3://{bucket}/out"
    words = ("upscale", source, "-o", two, "-m", model, *BUDGET, "--ray", cluster, "--json")
    driver = subprocess.Popen(command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        before = more_results(driver, two, 0)
        os.kill(workers()[0], signal.SIGKILL)
        more_results(driver, two, before)
    finally:
        driver.kill()
        driver.communicate()
    assert len(names(two)) < len(names(one))

    code, out, err = nlsr(*words, "--resume")
    assert code == 1
    assert tree(two) == tree(one)
    assert len(tree(one)) == COUNT - COUNT // 10
    assert sorted(err.splitlines()[-COUNT // 10 :]) == sorted(alone.splitlines()[-COUNT // 10 :])
    told = [json.loads(line)["status"] for line in out.splitlines()]
    assert (len(told), told.count("failed")) == (COUNT, COUNT // 10)
    assert told.count("done") > 0


def test_rows_of_a_dataset_are_enlarged_and_bad_ones_say_why(cluster, model):
    import ray

    import nlsr.ray

    array = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    rows = [{"name": "a", "image": array}, {"name": "b", "image": file.getvalue()}, {"name": "c", "image": b"none"}]
    with nlsr.ray.cluster(cluster):
        dataset = ray.data.from_items(rows, override_num_blocks=3)
        larger = nlsr.ray.upscale(dataset, model=model, memory="200MiB", workers=1).take_all()
    of_array, of_bytes, bad = sorted(larger, key=lambda row: row["name"])
    expected = nlsr.Upscaler(model, memory="200MiB")(array)
    np.testing.assert_array_equal(of_array["image"], expected)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(of_bytes["image"]))), expected)
    assert (of_array["error"], of_bytes["error"]) == ("", "")
    assert bad["image"] == b""
    assert bad["error"].startswith("expected PNG, JPEG")


def test_what_cannot_be_is_said_in_one_line_before_anything_is_begun(nlsr, cluster, model, tmp_path, monkeypatch):
    def refuse(**_):
        """As Ray does where it does not run, in words of its own."""
        raise ConnectionError("Please specify the one to connect to by setting `--address` flag")

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
            ("--ray", "ray://head:10001"): "expected local, auto or the address of the head, like head:6379",
        }
        for words, told in cases.items():
            code, _, err = nlsr("upscale", source, "-o", out, "-m", model, *words)
            assert (code, len(err.splitlines())) == (2, 1), err
            assert told in err
    assert tree(out) == {}
    with monkeypatch.context() as without:
        without.setattr("ray.init", refuse)
        code, _, err = nlsr("upscale", source, "-o", out, "-m", model, "--ray")
    assert (code, "expected Ray to run on this machine, but it does not; give the address" in err) == (2, True), err
    code, _, err = nlsr("upscale", source / "above" / "000.png", "-m", model, "--ray", cluster)
    assert (code, "expected -o FOLDER" in err) == (2, True)


def test_a_cluster_that_cannot_do_it_says_why(nlsr, cluster, model, tmp_path, monkeypatch):
    """Here another version is pretended. The folder in which a process runs is another one for every process."""
    import nlsr.ray as batches

    monkeypatch.chdir(tmp_path)
    source, out = pictures(tmp_path / "in", 2), tmp_path / "out"
    other = batches._versions() | {"torch": "2.0"}
    cases = [
        ({"ray.__version__": "2.0.0"}, out, r"Ray: 2\.0\.0.*install the same Ray and Python on all machines"),
        ({"nlsr.ray._versions": lambda: other}, out, "node .* has torch .*, here it is 2.0; install the same"),
        ({}, "/proc/self/cwd/out", "node .* does not see /proc/self/cwd/out as it is here; choose a disk that all"),
    ]
    for changes, folder, told in cases:
        with monkeypatch.context() as here:
            for name, value in changes.items():
                here.setattr(name, value)
            code, _, err = nlsr("upscale", source, "-o", folder, "-m", model, *BUDGET, "--ray", cluster)
        assert (code, len(err.splitlines())) == (2, 1), err
        assert re.search(told, err), err
        assert tree(out) == {}
    choosing = ("auto", torch.device("cpu"), None)
    assert batches._differing(batches._versions(), [], batches._chosen(*choosing), *choosing) == ""
    assert "add `precision=fp32`" in batches._differing(batches._versions(), [], {}, *choosing)


def test_a_network_of_a_module_that_the_command_imported_is_computed_by_workers_that_find_it_too(
    nlsr, cluster, tmp_path, monkeypatch
):
    """They look into the folder in which the command runs, and not where else the command looks."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "operator_of_a_test.py").write_text(OPERATOR)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    own = LCoANConfig(2, channels=8, num_groups=1, num_blocks=1, operator=import_module("operator_of_a_test").own)
    save_network(tmp_path / "own.safetensors", LCoAN(own))
    source, out, alone = pictures(tmp_path / "in", 2), tmp_path / "out", tmp_path / "alone"
    words = ("upscale", source, "-m", tmp_path / "own.safetensors", "--import", "operator_of_a_test", *BUDGET)

    monkeypatch.chdir(tmp_path)
    code, _, err = nlsr(*words, "-o", out, "--ray", cluster)
    assert (code, len(err.splitlines())) == (2, 1), err
    assert re.search("node .* module 'operator_of_a_test' cannot be imported.*; install it on all nodes", err), err
    assert tree(out) == {}

    monkeypatch.chdir(tmp_path / "modules")
    assert nlsr(*words, "-o", alone)[0] == 0
    code, _, err = nlsr(*words, "-o", out, "--ray", cluster)
    assert code == 0, err
    assert tree(out) == tree(alone) != {}


def test_a_picture_that_ends_its_workers_is_named_and_the_others_are_done(cluster, tmp_path, monkeypatch):
    import nlsr.ray as batches
    from nlsr.upscale import Upscaler
    from nlsr.upscale.batch import Manifest, Saving, Task

    def deadly(low_res):
        """Enlarges pictures but one, as a decoder that breaks or memory that runs out would."""
        if low_res.shape[-1] == 26:
            os.kill(os.getpid(), signal.SIGKILL)
        return low_res.repeat_interleave(2, -1).repeat_interleave(2, -2)

    folder = pictures(tmp_path / "in", 4)
    sources = [folder / name for name in sorted(names(folder))]
    tasks = [Task(source, tmp_path / "out" / f"{source.stem}.png") for source in sources]
    monkeypatch.setattr(batches, "ATTEMPTS", 0)
    upscaler = Upscaler(deadly, model_scale=2, memory="200MiB", tile="none")
    with batches.cluster(cluster), Manifest(tmp_path / "out", {}, resume=False) as manifest:
        results = list(batches.run(upscaler, tasks, Saving(make_folders=True), manifest=manifest, workers=1))
    failed = [done for done in results if done.status == "failed"]
    assert [(done.task.source.stem, done.reason.split(",")[0]) for done in failed] == [
        ("002", "ended every worker that it was given to")
    ]
    assert sorted(names(tmp_path / "out")) == ["000.png", "001.png", "003.png"]


def test_two_jobs_do_not_share_an_output(nlsr, cluster, model, tmp_path):
    from nlsr.upscale.batch import Manifest

    with Manifest(tmp_path / "out", {}, resume=False):
        code, _, err = nlsr("upscale", pictures(tmp_path / "in", 2), "-o", tmp_path / "out", "--ray", cluster)
    assert (code, "another nlsr writes there" in err) == (2, True)


def test_a_job_reaches_for_no_other_machine(model, tmp_path):
    """It is done without any, where the system lends it a network of its own; and no Python process of it tries."""
    lent = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    lends = shutil.which("unshare") and subprocess.run([*lent, "true"], stderr=subprocess.DEVNULL, check=False)
    path = os.pathsep.join([str(Path(__file__).parent / "watched"), os.environ.get("PYTHONPATH", "")])
    log = tmp_path / "watched.txt"
    source, out = pictures(tmp_path / "in", 3), tmp_path / "out"
    words = ("upscale", source, "-o", out, "-m", model, *BUDGET, "--ray", "local", "--workers", "1")
    done = subprocess.run(
        [*(lent if lends and lends.returncode == 0 else ()), *command(*words)],
        check=False,
        env=os.environ | {"PYTHONPATH": path, "NLSR_WATCHED": str(log)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(tree(out)) == 3
    told = log.read_text()
    assert "default_worker.py" in told
    # When it starts, Ray asks where clouds tell machines about themselves; that cannot be switched off.
    assert set(re.findall("reached for (.*) by", told)) <= {"169.254.169.254", "metadata.google.internal"}


def test_nobody_is_told(cluster):
    from ray._common.usage import usage_lib

    assert not usage_lib.usage_stats_enabled()
