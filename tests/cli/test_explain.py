"""nlsr explain: what it writes, what it says, and that bad input gets one line and writes nothing."""

import numpy as np
import pytest
from PIL import Image

from nlsr.networks import PAN, PANConfig
from nlsr.weights import save_network


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)).save(path)
    return path


def test_a_picture_and_arrays_are_written_and_equal_calls_write_equal_files(nlsr, photo, tiny_model):
    written = []
    for name in "ab":
        files = photo.with_name(f"{name}.png"), photo.with_name(f"{name}.npz")
        code, out, err = nlsr(
            "explain", photo, "--at", "20,7", "-m", tiny_model, "-o", files[0], "--npz", files[1], "--steps", 2
        )
        assert (code, err) == (0, "")
        written.append([file.read_bytes() for file in files])
    assert written[0] == written[1]
    assert out.startswith("tiny: 20,7: matched in 30x24 pixels, draws most on ")
    arrays = np.load(files[1])
    assert arrays["at"].tolist() == [20, 7]
    assert f"; diffusion index {arrays['diffusion_index']:.2f} in 30x24 pixels; " in out
    x, y = arrays["strongest"][0]
    assert arrays["heat"][y, x] == arrays["heat"].max()
    assert f"draws most on {x},{y} " in out


def test_the_picture_lies_beside_the_photo_and_is_not_replaced_unasked(nlsr, photo, tiny_model):
    words = ["explain", photo, "--at", "0,23", "-m", tiny_model, "--steps", 1]
    assert nlsr(*words)[0] == 0
    target = photo.with_name("photo_at_0_23.png")
    with Image.open(target) as image:
        assert image.width > 1000
    # Said before anything is computed or even loaded.
    code, _, err = nlsr("explain", photo, "--at", "0,23", "-m", "none-such")
    assert (code, "exists already" in err) == (2, True)
    photo.with_name("a.npz").write_bytes(b"")
    code, _, err = nlsr("explain", photo, "--at", "1,1", "-m", "none-such", "--npz", photo.with_name("a.npz"))
    assert (code, "exists already" in err) == (2, True)
    assert nlsr(*words, "--overwrite")[0] == 0


def test_what_lies_under_transparent_pixels_changes_nothing(nlsr, photo, tiny_model):
    samples = np.dstack([np.asarray(Image.open(photo)), np.full((24, 30), 255, np.uint8)])
    samples[4:20, 12:, 3] = 0
    written = []
    for hidden in (0, 255):
        samples[4:20, 12:, :3] = hidden
        Image.fromarray(samples).save(photo)
        words = ["--at", "9,9", "-m", tiny_model, "-o", photo.with_name(f"{hidden}.png"), "--steps", 1]
        assert nlsr("explain", photo, *words)[0] == 0
        written.append(photo.with_name(f"{hidden}.png").read_bytes())
    assert written[0] == written[1]


def test_a_network_without_affinity_says_so(nlsr, photo, tmp_path):
    save_network(tmp_path / "pan.safetensors", PAN(PANConfig(2, channels=8, num_blocks=1)))
    code, out, _ = nlsr("explain", photo, "--at", "3,4", "-m", tmp_path / "pan.safetensors", "--steps", 1)
    assert (code, "this network has no attention, so nothing is matched; diffusion index" in out) == (0, True)


def test_the_default_is_a_model_with_attention(nlsr, photo, tiny_model, monkeypatch):
    monkeypatch.setattr("nlsr.weights.looked_into", lambda: str(tiny_model))
    code, out, _ = nlsr("explain", photo, "--at", "3,4", "--steps", 1)
    assert (code, out.startswith(f"{tiny_model.stem}: 3,4: matched in 30x24 pixels")) == (0, True)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--at", "30,3"], 2, "30,3 lies outside the picture of 30x24"),
        (["--at", "3"], 2, "--at 3: expected x and y of a pixel, like 120,80"),
        (["--at", "3,4,5"], 2, "--at 3,4,5: expected x and y"),
        ([], 2, "--at"),
        (["--at", "3,4", "--affinity", "1"], 2, "affinity 1: this network has one affinity, 0"),
        (["--at", "3,4", "-m", "none-such"], 2, "no model is named 'none-such'"),
        (["--at", "3,4", "--memory", "20KiB"], 2, "this network needs about"),
        (["--at", "3,4", "--window", "60"], 2, "expected a window of 1 to 47 upscaled pixels"),
        (["--at", "3,4", "--npz", "a.npy"], 2, "--npz a.npy: expected a name that ends in .npz"),
        (["--at", "3,4", "--npz", "nowhere/a.npz"], 2, "nowhere/a.npz: its folder does not exist"),
        (["--at", "3,4", "-o", "nowhere/a.png"], 2, "its folder does not exist"),
        (["--at", "3,4", "--device", "nowhere"], 2, "--device nowhere: not available here; try cpu"),
    ],
)
def test_wrong_requests_get_one_line(nlsr, photo, tiny_model, words, code, message):
    model = [] if "-m" in words else ["-m", tiny_model]
    got, _, err = nlsr("explain", photo, *words, *model)
    assert got == code
    assert message in err
    assert len(err.splitlines()) == 1
    assert [path.name for path in photo.parent.glob("*.png")] == ["photo.png"]


def test_unreadable_and_small_pictures_get_one_line(nlsr, tmp_path, tiny_model):
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    Image.new("RGB", (15, 30)).save(tmp_path / "small.png")
    said = {"bad.png": "bad.png", "small.png": "at least 16x16 pixels, got 15x30", "none.png": "none.png"}
    for name, message in said.items():
        code, _, err = nlsr("explain", tmp_path / name, "--at", "3,4", "-m", tiny_model)
        assert (code, message in err, len(err.splitlines())) == (1, True, 1)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt, 130, "explain: stopped; nothing was written\n"),
        (MemoryError, 1, "explain: out of memory; take less with --region and --attribution-region\n"),
    ],
)
def test_being_stopped_and_running_out_of_memory_get_one_line(
    nlsr, photo, tiny_model, monkeypatch, error, code, message
):
    def attribute(*_, **__):
        raise error

    monkeypatch.setattr("nlsr.explain.explanation.attribute", attribute)
    got, out, err = nlsr("explain", photo, "--at", "3,4", "-m", tiny_model)
    assert (got, out, err) == (code, "", message)
    assert [path.name for path in photo.parent.glob("*.png")] == ["photo.png"]
