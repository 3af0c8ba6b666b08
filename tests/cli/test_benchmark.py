"""nlsr benchmark: measured and predicted rows."""

import json

from nlsr.benchmark.networks import PARAMETERS


def test_the_table_names_sizes_and_published_counts(nlsr, monkeypatch):
    monkeypatch.setattr("nlsr.benchmark.networks.SIZES", ((16, 16), (20, 24)))
    code, out, _ = nlsr("benchmark", "networks", "pan", "lcoan-light", "--threads", 1, "--json")
    assert code == 0
    pan, light = map(json.loads, out.splitlines())
    assert pan["parameters"] == pan["published_parameters"] == PARAMETERS["pan"][4]
    assert light["published_parameters"] is None
    for row in (pan, light):
        assert [cost["predicted"] for cost in row["costs"]] == [False, False]
        assert all(cost["seconds"] > 0 for cost in row["costs"])


def test_what_would_take_too_long_is_predicted_and_marked(nlsr, monkeypatch):
    monkeypatch.setattr("nlsr.benchmark.networks.SIZES", ((16, 16), (20000, 24000)))
    code, out, _ = nlsr("benchmark", "networks", "pan", "--threads", 1, "--limit", 1)
    assert code == 0
    assert "24000x20000: seconds" in out
    assert out.splitlines()[-1].count("~") == 2


def test_an_unknown_network_is_refused(nlsr):
    code, _, err = nlsr("benchmark", "networks", "none-such")
    assert (code, "none-such: expected one of" in err) == (2, True)
