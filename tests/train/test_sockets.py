"""A training reaches for no network."""

from tests.sockets import attempts


def test_a_training_and_its_check_reach_for_no_network(tmp_path, nlsr, data, recipe_file):
    folders = ("--data", data, "-o", tmp_path / "runs", "--cache", tmp_path / "cache", "--threads", 1)
    with attempts() as tried:
        for more in (["--check"], []):
            code, _, err = nlsr("train", recipe_file, *folders, *more)
            assert code == 0, err
    assert tried == []
