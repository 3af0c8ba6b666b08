"""What nlsr does with an operator of your own, from training to benchmark: python tour.py PICTURE FOLDER

Trains `lcoan` with the operator of `strided.py` for 20 steps, kills the training, resumes it, and uses what came out.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
RECIPE = """
name = "strided"
[network]
preset = "lcoan"
scale = 2
channels = 16
num_groups = 2
num_blocks = 1
operator = "strided"
operator_settings = { side = 6 }
[data]
train = ["train"]
validation = "valid"
[training]
steps = 20
batch_size = 8
patch_size = 40
validate_every = 5
"""
NEW_PROCESS = """
import sys
import nlsr, strided
network = nlsr.load(sys.argv[1])
larger = nlsr.Upscaler(network)(sys.argv[2])
print("upscaled by", type(network.operators()[0]).__name__, "to", tuple(larger.shape))
"""


def main(picture: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cut(picture, folder / "data")
    (folder / "recipe.toml").write_text(RECIPE)
    weights, small = folder / "runs" / "strided" / "strided.safetensors", folder / "data" / "valid" / "0.png"
    train = ["train", folder / "recipe.toml", "--data", folder / "data", "-o", folder / "runs"]
    train += ["--cache", folder / "cache", "--threads", 1, "--import", "strided"]
    killed(train, when=folder / "runs" / "strided" / "last.ckpt")
    nlsr(*train, "--resume")
    run([sys.executable, "-c", NEW_PROCESS, weights, small])
    nlsr("evaluate", "--model", weights, "--data", folder / "data" / "valid", "--import", "strided")
    explained = ["-o", folder / "explained.png", "--steps", 2, "--overwrite"]
    nlsr("explain", small, "--at", "20,30", "--model", weights, *explained, "--import", "strided")
    sizes = ["--size", 16, "--size", 24, "--channels", 16, "--repeats", 1, "--threads", 1]
    nlsr("benchmark", "operators", "strided", "dense", *sizes, "--import", "strided")


def cut(picture: Path, data: Path) -> None:
    """Three pieces to train on and one to validate."""
    image = Image.open(picture).convert("RGB")
    for name, left in (("train/0", 0), ("train/1", 60), ("train/2", 120), ("valid/0", 180)):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        image.crop((left, 40, left + 96, 136)).save(data / f"{name}.png")


def nlsr(*words: object) -> None:
    run(command(words))


def command(words: "list[object] | tuple[object, ...]") -> list[str]:
    return [str(word) for word in (Path(sys.executable).with_name("nlsr"), *words)]


def run(words: list[object] | list[str]) -> None:
    subprocess.run([str(word) for word in words], check=True, cwd=HERE)


def killed(words: list[object], when: Path) -> None:
    """Start a command and kill it, without warning, as soon as a file is there."""
    process = subprocess.Popen(command(words), cwd=HERE, stderr=subprocess.DEVNULL)
    while not when.exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    print("killed" if process.wait() < 0 else "not killed in time", flush=True)


if __name__ == "__main__":
    main(*(Path(os.path.abspath(word)) for word in sys.argv[1:]))
