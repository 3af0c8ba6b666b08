"""Memory of upscaling: predicted against measured, and peaks against budgets, each in a process of its own. Linux only.

python benchmarks/memory.py networks                  # every preset, reduced and as published
python benchmarks/memory.py budgets --threads 2       # 1, 12 and 48 megapixels to TIFF; what is refused comes first
python benchmarks/memory.py budgets --megapixels 2 --model span.pth   # with any file that --model takes

Measured is the peak of resident memory over what the process has when the weights are loaded and the picture is not.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
import torch
from PIL import Image

from nlsr import networks
from nlsr.default import DEFAULT_MODEL
from nlsr.errors import UsageError
from nlsr.images import Picture
from nlsr.memory import parse_size, shown
from nlsr.networks import PRESETS, Network
from nlsr.upscale import Upscaler
from nlsr.upscale.batch import Done, Saving, Task, run

REDUCED = {"channels": 32, "num_groups": 2, "num_blocks": 8, "num_features": 32}
"""What a reduced network has, as far as its config knows the name."""
SIZES = {"published": ((96, None), (192, None), (224, 128)), "reduced": ((192, None), (384, None), (384, 192))}
"""Sides of the pictures and of their tiles."""
BUDGETS = ((1, "1GiB"), (1, "2GiB"), (1, "4GiB"), (2, "1GiB"), (12, "1GiB"), (12, "2GiB"), (12, "4GiB"), (48, "2GiB"))
REFUSED = (
    (1, "64MiB", "jpg"),
    (12, "128MiB", "tif"),
    (12, "256MiB", "png"),
    (48, "512MiB", "jpg"),
    (48, "1GiB", "png"),
)
"""Megapixels of a photo, what it may take, and its format; the first from TIFF."""
SHAPES = {1: (800, 1250), 2: (1250, 1600), 12: (3000, 4000), 48: (6000, 8000)}


def build(preset: str, scale: int, reduced: bool) -> Network:
    config = PRESETS[preset](scale)
    if reduced:
        names = {field.name for field in dataclasses.fields(config)}
        config = dataclasses.replace(config, **{name: value for name, value in REDUCED.items() if name in names})
    return networks.build(config)


def resident(field: str) -> int:
    """VmRSS now, or VmHWM at most, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def start() -> int:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    return resident("VmRSS")


def network_case(preset: str, scale: int, kind: str, side: int, tile: int | None, precision: str) -> dict[str, object]:
    upscaler = Upscaler(build(preset, scale, kind == "reduced"), tile=tile or "none", precision=precision)  # type: ignore[arg-type]
    before = start()
    picture = Picture(torch.rand(1, 3, side, side))
    result = upscaler.upscale(picture)
    measured = resident("VmHWM") - before
    return {
        "network": f"{preset} ({kind})",
        "picture": f"{side}x{side}",
        "plan": str(result.plan).split(" (")[0],
        "predicted MiB": round(result.plan.predicted / 2**20),
        "measured MiB": round(measured / 2**20),
        "predicted / measured": round(result.plan.predicted / measured, 2),
        "seconds": round(result.seconds, 1),
    }


def budget_case(megapixels: int, memory: str, ending: str, precision: str, model: str) -> dict[str, object]:
    """As the command does it: what does not fit is refused, and that must not take more than the budget either."""
    height, width = SHAPES[megapixels]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, f"photo.{ending}"), Path(folder, "large.tif")
        subprocess.run([sys.executable, __file__, "photo", str(source), str(height), str(width)], check=True)
        upscaler = Upscaler(model, memory=parse_size(memory), precision=precision)  # type: ignore[arg-type]
        upscaler.upscale(Picture(torch.rand(1, 3, 16, 16)))  # loads the weights
        before = start()
        started, started_processor = time.monotonic(), time.process_time()
        (done,) = run(upscaler, [Task(source, target)], Saving())
        seconds, processor = time.monotonic() - started, time.process_time() - started_processor
        peak = resident("VmHWM")
    if done.error is not None and not isinstance(done.error, UsageError):
        raise done.error
    budget = parse_size(memory)
    return {
        "model": Path(model).name,
        "picture": f"{megapixels} MP {ending}",
        "budget": memory,
        "plan": str(done.outcome.plan).split(" (")[0] if done.outcome else "refused",
        "predicted": done.reason.split(" needs ")[1].split(",")[0]
        if done.error
        else shown(done.outcome.plan.predicted),
        "measured MiB": round((peak - before) / 2**20),
        "measured / budget": round((peak - before) / budget, 2),
        "seconds": round(seconds, 1),
        "processor seconds": round(processor, 1),
        "processor ns per pixel": round(1e9 * processor / pixels, 1) if (pixels := _pixels(done)) else "",
    }


def _pixels(done: Done) -> int:
    """Pixels of the result, of which there are none where the picture was refused."""
    return done.outcome.plan.new_height * done.outcome.plan.new_width if done.outcome else 0


def make_photo(path: Path, height: int, width: int) -> None:
    """Smooth colours with grain: 8-bit RGB, or 16-bit RGB with alpha as PNG."""
    rows = np.linspace(0, 40, height)[:, None]
    photo = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, 256):
        wave = np.sin(rows[top : top + 256] + np.linspace(0, 60, width)) * 80 + 128
        grain = np.random.default_rng(top).integers(-20, 20, (*wave.shape, 3))
        photo[top : top + 256] = (wave[:, :, None] + grain).clip(0, 255)
    if path.suffix == ".tif":
        tifffile.imwrite(path, photo, photometric="rgb")
    elif path.suffix == ".png":
        deep = np.full((height, width, 4), 40000, np.uint16)
        deep[:, :, :3] = photo.astype(np.uint16) * 257
        path.write_bytes(imagecodecs.png_encode(deep, level=1))
    else:
        Image.fromarray(photo).save(path)


def in_turn(cases: list[list[str]]) -> None:
    """Run each case in a child and print a Markdown table as the rows come."""
    for index, words in enumerate(cases):
        command = [sys.executable, __file__, *sys.argv[1:], "--only", json.dumps(words)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            print(f"{words}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            continue
        row = json.loads(done.stdout)
        if index == 0:
            print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
        print("| " + " | ".join(map(str, row.values())) + " |", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["photo"]:  # in a process of its own, whose memory is gone when the case begins
        make_photo(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["networks", "budgets"])
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    parser.add_argument("--kinds", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--megapixels", nargs="+", type=int, default=[1, 12, 48])
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or file, for budgets")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only:
        words = json.loads(options.only)
        if options.what == "networks":
            print(json.dumps(network_case(*words, options.precision)))
        else:
            print(json.dumps(budget_case(*words, options.precision, options.model)))
    elif options.what == "networks":
        kinds = [(kind, *size) for kind in options.kinds for size in SIZES[kind]]
        in_turn([[preset, options.scale, *kind] for preset in options.presets for kind in kinds])
    else:
        cases = [*REFUSED, *((*budget, "tif") for budget in BUDGETS)]
        in_turn([list(case) for case in cases if case[0] in options.megapixels])


if __name__ == "__main__":
    main()
