"""Batches: their speed, and what is left of them when they are killed. POSIX only.

python benchmarks/batch.py speed                          # 100 small pictures against a bare loop over tensors
python benchmarks/batch.py kill --files 500 --kills 50    # mixed files, twenty of them bad; killed and resumed

`kill` compares everything that is in the output folder after each kill, and at the end, with an uninterrupted run. The
command runs in forked children of one process, so that a kill meets its work and not its start.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import statistics
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image

from nlsr.files import is_unfinished
from nlsr.images import Picture, read, write
from nlsr.networks import LCoAN, LCoANConfig
from nlsr.upscale import Upscaler
from nlsr.upscale.batch import Manifest, Naming, Saving, deciding, find_pictures, run, tasks
from nlsr.upscale.batch.manifest import NAME
from nlsr.upscale.precision import computing_in
from nlsr.weights import save_network

NAMES = ("a b", "ü", "[1]", "line\nbreak", os.fsdecode(b"\xff\xfe latin"), "%s {stem}", "-o", "x" * 200)
FOLDERS = ("", "2021", "2021/summer", "2022.png", os.fsdecode(b"f\xfcr"))


def good_pictures(folder: Path, count: int, draw: np.random.Generator) -> None:
    """Pictures of all formats and kinds, 8 to 24 pixels a side, spread over folders."""
    kinds: list[tuple[str, Callable[[Path, np.ndarray], None]]] = [
        ("png", lambda path, pixels: Image.fromarray(pixels).save(path)),
        ("jpg", lambda path, pixels: Image.fromarray(pixels).save(path)),
        ("png", lambda path, pixels: Image.fromarray(pixels[:, :, 0]).save(path)),
        ("png", lambda path, pixels: Image.fromarray(np.dstack((pixels, pixels[:, :, 0]))).save(path)),
        ("png", lambda path, pixels: Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257).save(path)),
        ("png", lambda path, pixels: Image.fromarray(pixels).quantize(8).save(path)),
        ("png", lambda path, pixels: Image.fromarray(pixels).convert("1").save(path)),
        ("jpeg", lambda path, pixels: Image.fromarray(pixels).convert("CMYK").save(path, "JPEG")),
        ("JPG", lambda path, pixels: Image.fromarray(pixels[:, :, 0]).save(path, "JPEG")),
        ("webp", lambda path, pixels: Image.fromarray(pixels).save(path)),
        ("tif", lambda path, pixels: tifffile.imwrite(path, pixels, photometric="rgb")),
        ("tiff", lambda path, pixels: tifffile.imwrite(path, pixels.astype(np.uint16) * 257, photometric="rgb")),
        ("tif", lambda path, pixels: tifffile.imwrite(path, pixels.astype(np.float32) / 255, photometric="rgb")),
        ("avif", lambda path, pixels: Image.fromarray(pixels).save(path)),
        ("bmp", lambda path, pixels: Image.fromarray(pixels).save(path)),
        ("gif", lambda path, pixels: Image.fromarray(pixels).save(path)),
        ("jpg", lambda path, pixels: Image.fromarray(pixels).save(path, "PNG")),  # another format than it says
    ]
    for index in range(count):
        ending, save = kinds[index % len(kinds)]
        name = NAMES[index] if index < len(NAMES) else f"picture {index:04}"
        path = folder / FOLDERS[index % len(FOLDERS)] / f"{name}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, draw.integers(0, 256, (*draw.integers(8, 25, 2), 3), dtype=np.uint8))


def bad_pictures(folder: Path, draw: np.random.Generator) -> int:
    """What cannot be upscaled, between the others; returns how many."""
    pixels = draw.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    bad = folder / "2021"
    bad.mkdir(parents=True, exist_ok=True)
    for ending in ("png", "jpg", "tif", "webp", "avif", "bmp", "gif"):
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending))
        (bad / f"cut.{ending}").write_bytes(content.getvalue()[: len(content.getvalue()) // 2])
    # `cut` in seven formats would be seven results of one name.
    for path in bad.glob("cut.*"):
        path.rename(bad / f"cut {path.suffix[1:]}{path.suffix}")
    (bad / "empty.png").write_bytes(b"")
    (bad / "text.png").write_bytes(b"this is no picture")
    (bad / "page.jpg").write_bytes(b"<html><body>404</body></html>")
    (bad / "paper.tif").write_bytes(b"%PDF-1.7\n")
    (bad / "unknown.webp").write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40))
    (bad / "folder.png").mkdir()
    (bad / "loop.png").symlink_to("loop.png")
    (bad / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(bad / "pipe.png")
    (bad / "bomb.png").write_bytes(bomb(20_000, 20_000))
    tifffile.imwrite(bad / "nan.tif", np.full((9, 9, 3), np.nan, np.float32), photometric="rgb")
    Image.fromarray(pixels).save(bad / "twin.bmp")
    Image.fromarray(pixels).save(bad / "twin.png")  # its result has the name of the other's
    (bad / "noise.bmp").write_bytes(b"BM" + bytes(60))
    (bad / "back").symlink_to("..")
    return 20


def bomb(width: int, height: int) -> bytes:
    """A small PNG of many pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(height * (width // 8 + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def odd_but_good(folder: Path, draw: np.random.Generator) -> int:
    """Very wide, and without permissions, which only root can read; returns how many."""
    Image.fromarray(draw.integers(0, 256, (10, 65_500, 3), dtype=np.uint8)).save(folder / "wide.png")
    if os.geteuid() != 0:
        return 1
    Image.new("RGB", (9, 9)).save(folder / "locked.png")
    (folder / "locked.png").chmod(0)
    return 2


def kill(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    draw, chance = np.random.default_rng(options.seed), random.Random(options.seed)
    pictures, model = folder / "in", folder / "tiny.safetensors"
    pictures.mkdir()
    num_bad = bad_pictures(pictures, draw)
    num_odd = odd_but_good(pictures, draw) if options.wide else 0
    good_pictures(pictures, options.files - num_bad - 1 - num_odd, draw)  # one of the twins is good
    save_network(model, tiny_network())

    def command(output: Path) -> list[str]:
        words = ["nlsr", "upscale", str(pictures), "-o", str(output), "--model", str(model), "--memory", "2GiB"]
        return [*words, "--json", "--resume", "--threads", "1"]

    started = time.monotonic()
    code, lines, errors = finished(command(folder / "whole"), folder)
    seconds = time.monotonic() - started
    reference = results(folder / "whole")
    expect(code == 1, f"expected exit code 1, got {code}: {errors[-300:]}")
    failed = [line for line in lines if line["status"] == "failed"]
    expect(len(failed) == num_bad, f"expected {num_bad} failures, got {[line['input'] for line in failed]}")
    expect(len(lines) == options.files == len(reference) + num_bad, f"expected {options.files}, got {len(lines)}")
    expect(all(line["error"] and "\n" not in line["error"] for line in failed), "a failure without a reason")

    kills = rounds = half = 0
    output = folder / "killed"
    while kills < options.kills or rounds == 0:
        shutil.rmtree(output, ignore_errors=True)
        rounds += 1
        while True:
            moment = chance.uniform(0, 2 * seconds / max(1, options.kills)) if kills < options.kills else None
            code = killed_after(moment, command(output), folder)
            for name, content in results(output).items():
                expect(reference.get(name) == content, f"{name!r} is damaged after kill {kills + 1}")
            if code >= 0:
                break
            kills += 1
            half += any(is_unfinished(path.name) for path in output.rglob("*"))
        expect(code == 1, f"expected exit code 1 of the last, got {code}")
        expect(results(output) == reference, "the resumed tree is another one")
        expect(not any(is_unfinished(path.name) for path in output.rglob("*")), "half written files are left")
    return {
        "files": options.files,
        "failed": num_bad,
        "seconds": round(seconds, 1),
        "kills": kills,
        "in the middle of writing": half,
        "runs from the start": rounds,
    }


def tiny_network() -> LCoAN:
    torch.manual_seed(0)
    config = LCoANConfig(2, channels=8, num_groups=2, num_blocks=1, num_clusters=4, chunk_size=16, image_skip=True)
    return LCoAN(config)


def finished(words: list[str], folder: Path) -> tuple[int, list[dict[str, object]], str]:
    """Exit code, JSON lines and standard error of a command."""
    code = killed_after(None, words, folder)
    lines = (folder / "stdout").read_text().splitlines()
    return code, [json.loads(line) for line in lines], (folder / "stderr").read_text()


def killed_after(seconds: float | None, words: list[str], folder: Path) -> int:
    """The exit code of a command, or the negative number of the signal that ended it."""
    child = os.fork()
    if child == 0:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = words
        from nlsr.cli import main

        code = 70
        try:
            main()
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 70
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def results(folder: Path) -> dict[str, bytes]:
    """The files of a tree that bear a result's name."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != NAME]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if not is_unfinished(path.name)}


def expect(true: bool, otherwise: str) -> None:
    if not true:
        sys.exit(otherwise)


def speed(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    torch.set_num_threads(options.threads)
    pictures = folder / "in"
    pictures.mkdir()
    noise = torch.rand(options.count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, size=(options.side, options.side), mode="bicubic").clamp(0, 1)
    for index, image in enumerate(smooth):
        write(pictures / f"{index:03}.png", Picture(image[None]))
    upscaler = Upscaler(options.model)
    tensors = [read(path).pixels for path in sorted(pictures.iterdir())]
    network = upscaler.models.cascade(upscaler.scale)
    plan = upscaler.plan(options.side, options.side)
    bare, batch = [], []
    for _ in range(options.rounds):
        bare.append(clocked(lambda: bare_loop(network, tensors, plan.precision)))
        batch.append(clocked(lambda: as_batch(upscaler, pictures, folder / "out", options.format)))
        shutil.rmtree(folder / "out")
    rates = [statistics.median(options.count / seconds for seconds, _ in kind) for kind in (bare, batch)]
    processor = [statistics.median(busy / options.count for _, busy in kind) for kind in (bare, batch)]
    return {
        "pictures": f"{options.count} of {options.side}x{options.side} to {options.format}",
        "plan": str(plan),
        "bare per second": round(rates[0], 2),
        "batch per second": round(rates[1], 2),
        "ratio": round(statistics.median(one[0] / other[0] for one, other in zip(bare, batch, strict=True)), 3),
        "ratios": [round(one[0] / other[0], 3) for one, other in zip(bare, batch, strict=True)],
        "bare processor ms each": round(1e3 * processor[0], 1),
        "batch processor ms each": round(1e3 * processor[1], 1),
    }


def clocked(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of the processors."""
    started, busy = time.monotonic(), time.process_time()
    work()
    return time.monotonic() - started, time.process_time() - busy


@torch.no_grad()
def bare_loop(network: torch.nn.Module, tensors: list[torch.Tensor], precision: str) -> None:
    with computing_in(precision, torch.device("cpu")):  # type: ignore[arg-type]
        for tensor in tensors:
            network(tensor.contiguous(memory_format=torch.channels_last)).float()


def as_batch(upscaler: Upscaler, pictures: Path, output: Path, format: str) -> None:
    found = find_pictures([pictures], leave_out=output)
    naming = Naming(output, "{stem}", "x4", "model", ext=format)
    todo = tasks(found.sources, [naming.target(source) for source in found.sources])
    saving = Saving(make_folders=True)
    with Manifest(output, deciding(upscaler, saving), resume=False) as manifest:
        for done in run(upscaler, todo, saving, manifest=manifest):
            expect(done.status == "done", done.reason)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "kill"])
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--wide", action=argparse.BooleanOptionalAction, default=True, help="with one of 65,500x10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--format", default="png")
    parser.add_argument("--model", default="lcoan-light")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps((kill if options.what == "kill" else speed)(options, Path(folder))))


if __name__ == "__main__":
    main()
