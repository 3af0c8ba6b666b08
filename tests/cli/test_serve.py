"""nlsr serve: what it refuses before a server begins. tests/extras has the rest."""

import importlib.util

from nlsr import extras


def test_a_missing_extra_is_named_with_the_command_that_installs_it(nlsr, monkeypatch):
    def without_fastapi(name):
        return None if name == "fastapi" else importlib.util.find_spec(name)

    monkeypatch.setattr(extras, "find_spec", without_fastapi)
    code, out, err = nlsr("serve", "--port", 0)
    assert (code, out) == (2, "")
    assert err.startswith("serve: this needs 'fastapi'; install it with: ")
