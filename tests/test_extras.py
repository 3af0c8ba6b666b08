"""What is missing names the command that installs it, for every way in which nlsr may have been installed."""

import sys
from importlib.metadata import PackageNotFoundError

import pytest

from nlsr import extras
from nlsr.errors import UsageError

DECLARED = [
    "torch>=2.6",
    "matplotlib>=3.9; extra == 'bench'",
    "ray[data]>=2.9; python_version < '3.14' and extra == \"ray\"",
    "arrow; extra == 'ray'",
]


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An environment with pip, in which nlsr was installed."""
    monkeypatch.setattr(extras, "requires", lambda name: DECLARED)
    monkeypatch.setattr(extras, "find_spec", {"pip": "here"}.get)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/venv/bin/python")
    return tmp_path


@pytest.mark.usefixtures("environment")
def test_pip_installs_what_the_extra_declares_into_this_environment():
    assert extras.installing("bench") == '/venv/bin/python -m pip install "matplotlib>=3.9"'
    assert extras.installing("ray") == '/venv/bin/python -m pip install "ray[data]>=2.9" arrow'
    with pytest.raises(UsageError, match=r"^this needs 'nowhere'; install it with: /venv/bin/python -m pip install"):
        extras.require("nowhere", extra="bench")


def test_pipx_puts_it_beside(environment):
    (environment / "pipx_metadata.json").touch()
    assert extras.installing("bench") == 'pipx inject nlsr "matplotlib>=3.9"'


@pytest.mark.usefixtures("environment")
def test_uv_installs_where_there_is_no_pip(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    monkeypatch.setattr(sys, "executable", "/my tools/nlsr/bin/python")
    assert extras.installing("bench") == 'uv pip install --python "/my tools/nlsr/bin/python" "matplotlib>=3.9"'


@pytest.mark.usefixtures("environment")
def test_a_source_tree_that_was_not_installed_names_the_extra(monkeypatch):
    def requires(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "requires", requires)
    assert extras.installing("bench") == '/venv/bin/python -m pip install "nlsr[bench]"'
