"""Tests of optional libraries, each in an environment of its own: `.ci/run` makes them. Elsewhere they are not run."""

import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from nlsr.networks import LCoAN, LCoANConfig
from nlsr.weights import save_network

if find_spec("torchvision") is None:
    sys.path.append(str(Path(__file__).parent / "stand_in"))


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A weight file whose network takes no time."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    torch.manual_seed(0)
    save_network(path, LCoAN(LCoANConfig(2, channels=8, num_groups=2, num_blocks=1, num_clusters=4, chunk_size=16)))
    return path


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """A weight file of a network without attention."""
    path = tmp_path_factory.mktemp("plain") / "plain.safetensors"
    torch.manual_seed(0)
    save_network(path, LCoAN(LCoANConfig(2, channels=8, num_groups=2, num_blocks=1, operator="none")))
    return path


@pytest.fixture(scope="session")
def s3():
    """The address of a server of S3 on this machine, which is not ours, with what a user sets to reach it."""
    moto = pytest.importorskip("moto.server", reason="needs moto: pip install 'moto[server]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", endpoint)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.setenv(name, "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield endpoint
    server.stop()


@pytest.fixture
def bucket(s3):
    """The name of a new bucket."""
    import fsspec

    fsspec.filesystem("s3").clear_instance_cache()
    name = f"bucket-{time.monotonic_ns()}"
    fsspec.filesystem("s3").mkdir(name)
    yield name
    fsspec.filesystem("s3").clear_instance_cache()
