"""What Ray's workers cost beside one process, start excluded: pictures of 256x256, the ways in turns. Linux only.

python benchmarks/workers.py one            # one process, and one worker of Ray, with a thread each
python benchmarks/workers.py two            # one worker of two threads, and two workers of one thread

Wall time is that between the first results and the last. Processor time is that of this process and of Ray's workers
meanwhile: on a machine that does other work too, it is the one to look at. Ray's other processes take some more while
they wait, per second and not per picture.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import nlsr.ray
from nlsr.upscale import Upscaler
from nlsr.upscale.batch import Done, Manifest, Saving, Task, deciding, run

WAYS = {
    "one": {"process": (0, 1), "worker": (1, 1)},
    "two": {"one of two threads": (1, 2), "two of one thread": (2, 1)},
}
"""Workers, none for this process, and threads of each."""
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", choices=WAYS)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    ways = WAYS[arguments.ways]
    measured: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        pictures = made(Path(name), arguments.pictures)
        for turn in range(arguments.turns):
            for way, (workers, threads) in ways.items():
                wall, processor = seconds(pictures, Path(name, f"{way}{turn}"), workers, threads)
                measured[way].append((wall, processor))
                print(f"{way}: {wall:.3f} s of wall time, {processor:.3f} s of processors per picture", flush=True)
    first, second = ways
    told = {}
    for place, kind in enumerate(("wall", "processor")):
        medians = [statistics.median(times[place] for times in measured[way]) for way in (first, second)]
        told[kind] = {first: medians[0], second: medians[1], "rate of the second": medians[0] / medians[1]}
    print(json.dumps(told))


def made(folder: Path, count: int) -> list[Path]:
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(path)
    return paths


def seconds(pictures: list[Path], out: Path, workers: int, threads: int) -> tuple[float, float]:
    """Wall time and processor time per picture, after the first results."""
    torch.set_num_threads(threads)
    upscaler, saving = Upscaler(memory="1GiB"), Saving(make_folders=True)
    tasks = [Task(picture, out / picture.name) for picture in pictures]
    with Manifest(out, deciding(upscaler, saving), resume=False) as manifest:
        if not workers:
            return paced(run(upscaler, tasks, saving, manifest=manifest), len(tasks))
        if workers > 1:
            nlsr.ray.GROUP = 4  # what the others have in hand when the first one is ready is counted too
        with nlsr.ray.cluster("local"):
            return paced(nlsr.ray.run(upscaler, tasks, saving, manifest=manifest, workers=workers), len(tasks))


def paced(results: Iterator[Done], count: int) -> tuple[float, float]:
    walls, processors = [], []
    for number, done in enumerate(results):
        assert done.status == "done", done
        walls.append(time.monotonic())
        if number in (0, count - 1):
            processors.append(sum(map(used, [os.getpid(), *workers_below(os.getpid())])))
    counted = sum(wall > walls[0] + 0.1 for wall in walls)  # others that came with the first were done before
    return (walls[-1] - walls[0]) / counted, (processors[-1] - processors[0]) / counted


def workers_below(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            fields = stat(int(folder.name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = children.get(pid, [])
    for child in found:
        found += children.get(child, [])
    return [child for child in found if Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"ray::MapWorker")]


def used(pid: int) -> float:
    fields = stat(pid)
    return sum(map(int, fields[11:13])) / TICKS if fields else 0


def stat(pid: int) -> list[str]:
    """What the system tells of a process after its name; nothing of one that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


if __name__ == "__main__":
    main()
