"""What `import nlsr` gives."""

import subprocess
import sys

import nlsr

ROOMS = {"attention", "benchmark", "evaluate", "explain", "export", "images", "networks", "train", "upscale", "weights"}


def test_the_package_shows_its_public_names_and_rooms_and_all_of_them_are_there():
    shown = set(dir(nlsr))
    assert shown == set(nlsr.__all__) | ROOMS | {"__version__"}
    assert {"DEFAULT_MODEL", "Upscaler", "load", "read", "save_network", "write"} <= shown
    for name in shown:
        assert getattr(nlsr, name) is not None


def test_a_room_is_there_after_the_package_is_imported_and_nothing_heavy_before():
    """torch's compiler takes as long to import as torch itself."""
    code = """
import sys, nlsr
print('torch' in sys.modules)
print(nlsr.images.read.__name__)
nlsr.Upscaler, nlsr.load, nlsr.attention
print('torch._dynamo' in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "read", "False"]
