"""Does `nlsr serve` bear a crowd? Mixed requests, good and bad, twenty at once, to a server of its own.

Every answer must be the one that belongs to its request, nothing may stay in the folder of the server, and its memory
may change by no more than a tenth between the 200th request and the last. Prints one line of JSON, and exits with 1 if
anything else happened. Needs the extra `serve` and httpx.

    python benchmarks/serve.py --count 1000
"""

import argparse
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

import nlsr
from nlsr.networks import LCoAN, LCoANConfig

WARM = 200
"""Requests after which memory has to stay as it is, but for a tenth."""
LOOKS = 50
"""Requests from one look at the memory to the next."""
TRIES = 600
"""Looks at a folder, a tenth of a second apart, before what is still there is called left."""


class Server:
    """A server in a process of its own, whose network takes no time."""

    def __init__(self, folder: Path) -> None:
        config = LCoANConfig(2, channels=8, num_groups=2, num_blocks=1, num_clusters=4, chunk_size=16)
        torch.manual_seed(0)
        nlsr.save_network(folder / "tiny.safetensors", LCoAN(config))
        command = [sys.executable, "-m", "nlsr", "serve", "--port", "0", "--max-jobs", "1000000", "--max-upload", "1"]
        self._errors = folder / "errors.txt"
        with open(self._errors, "wb") as errors:
            self.process = subprocess.Popen(
                [*command, "-m", str(folder / "tiny.safetensors")],
                env=os.environ | {"NLSR_CACHE": str(folder)},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self.process.stdout is not None
        address = re.search(r"http://([^/:]*):(\d+)", self.process.stdout.readline())
        assert address is not None
        self.folder, self.port = folder / "serve", int(address[2])
        self.client = httpx.Client(base_url=address[0], timeout=300, limits=httpx.Limits(max_connections=None))

    def memory(self) -> int:
        """Resident bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0]) * 1024

    def left(self) -> list[str]:
        """What stays in the folders of jobs; some are removed after their answer was sent, which is waited for."""
        for _ in range(TRIES):
            found = [path.name for path in self.folder.glob("*/*") if path.name != "lock"]
            if not found:
                break
            time.sleep(0.1)
        return found

    def end(self) -> str:
        """What it said beside that it was stopped."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        return self._errors.read_text().replace("serve: stopped\n", "")


def picture(width: int, height: int, seed: int, format: str = "PNG", channels: int = 3) -> bytes:
    """A file of noise, large as a file for its size."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


# Requests: each gives what came and what was to come.

Outcome = tuple[Any, Any]


def send(server: Server, content: bytes, to: str = "/api/upscale", **options: str) -> httpx.Response:
    return server.client.post(to, files={"file": ("a.png", content)}, data={"model": "tiny"} | options)


def upscaled(server: Server, side: int, seed: int) -> Outcome:
    kind = ("PNG", 3), ("JPEG", 3), ("PNG", 4)
    response = send(server, picture(side, 16 + seed % 49, seed, *kind[seed % 3]))
    size = Image.open(io.BytesIO(response.content)).size if response.status_code == 200 else None
    return (response.status_code, size), (200, (2 * side, 2 * (16 + seed % 49)))


def resized(server: Server, side: int, seed: int) -> Outcome:
    response = send(server, picture(side, side, seed), width="77", format="webp", quality="60")
    return (response.status_code, response.headers["content-type"]), (200, "image/webp")


def job(server: Server, side: int, seed: int) -> Outcome:
    created = send(server, picture(side, 20, seed), "/api/jobs").json()["id"]
    state = None
    with server.client.stream("GET", f"/api/jobs/{created}/events") as events:
        for line in events.iter_lines():
            if line.startswith("data: "):
                state = json.loads(line[6:])["state"]
    result = server.client.get(f"/api/jobs/{created}/result").status_code
    return (state, result, server.client.delete(f"/api/jobs/{created}").status_code), ("done", 200, 204)


def cancelled(server: Server, side: int, seed: int) -> Outcome:
    created = send(server, picture(side, 20, seed), "/api/jobs").json()["id"]
    first = server.client.delete(f"/api/jobs/{created}").status_code
    return (first, server.client.delete(f"/api/jobs/{created}").status_code), (204, 404)


def explained(server: Server, side: int, seed: int) -> Outcome:
    form = {"model": "tiny", "x": str(seed % side), "y": "3"}
    response = server.client.post("/api/explain", files={"file": picture(side, side, seed)}, data=form)
    return (response.status_code, response.json().get("at")), (200, [seed % side, 3])


def estimated(server: Server, side: int, seed: int) -> Outcome:
    response = server.client.post("/api/estimate", json={"picture_width": side, "picture_height": 9, "model": "tiny"})
    return (response.status_code, response.json().get("new_width")), (200, 2 * side)


def hung_up(server: Server, side: int, seed: int) -> Outcome:
    """Half an upload, or a whole one whose answer is not waited for."""
    content = picture(side, side, seed)
    body = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' + content + b"\r\n--b--\r\n"
    head = "POST /api/upscale HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=b\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode())
        connection.sendall(body if seed % 2 else body[: len(body) // 2])
    return None, None


def refused(status: int, ask: Callable[[Server, int, int], httpx.Response]) -> Callable[[Server, int, int], Outcome]:
    def asked(server: Server, side: int, seed: int) -> Outcome:
        response = ask(server, side, seed)
        return (response.status_code, response.headers["content-type"]), (status, "application/problem+json")

    return asked


REQUESTS: dict[str, Callable[[Server, int, int], Outcome]] = {
    "upscaled": upscaled,
    "resized": resized,
    "job": job,
    "cancelled": cancelled,
    "explained": explained,
    "estimated": estimated,
    "hung up": hung_up,
    "truncated": refused(422, lambda server, side, seed: send(server, picture(side, side, seed)[: 40 + seed % 60])),
    "no picture": refused(422, lambda server, side, seed: send(server, bytes(side))),
    "wrong option": refused(400, lambda server, side, seed: send(server, picture(side, side, seed), scale="-1")),
    "wrong model": refused(400, lambda server, side, seed: send(server, picture(side, side, seed), model="../etc")),
    "no such job": refused(404, lambda server, side, seed: server.client.get(f"/api/jobs/{seed}")),
    "too large": refused(413, lambda server, side, seed: send(server, bytes(2**20 + side))),
    "other site": refused(
        403, lambda server, side, seed: server.client.get("/api/jobs", headers={"origin": "http://evil.example"})
    ),
    "other host": refused(421, lambda server, side, seed: server.client.get("/api/jobs", headers={"host": "evil"})),
}


def crowd(server: Server, count: int, at_once: int) -> tuple[Counter[str], list[str], dict[int, int]]:
    """How often each kind was asked, what went wrong, and the memory after so many requests."""
    asked, wrong, memory = Counter[str](), list[str](), dict[int, int]()
    done, lock = 0, threading.Lock()
    kinds = list(REQUESTS)

    def ask(number: int) -> None:
        nonlocal done
        kind = kinds[number % len(kinds)]
        try:
            came, expected = REQUESTS[kind](server, 16 + number * 7 % 49, number)
        except Exception as error:
            came, expected = f"{type(error).__name__}: {error}", "an answer"
        with lock:
            done += 1
            asked[kind] += 1
            if came != expected:
                wrong.append(f"{number} {kind}: expected {expected}, got {came}")
            if done % LOOKS == 0:
                memory[done] = server.memory()

    with ThreadPoolExecutor(at_once) as threads:
        list(threads.map(ask, range(count)))
    memory[count] = server.memory()
    return asked, wrong, memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            begun = time.monotonic()
            asked, wrong, memory = crowd(server, given.count, given.at_once)
            seconds = time.monotonic() - begun
            left = server.left()
        finally:
            said = server.end()
    settled = [used for number, used in memory.items() if number >= WARM]
    change = max(settled) / min(settled) - 1 if settled else None
    if change is not None and change > 0.1:
        wrong.append(f"memory changed by {change:.0%} after the {WARM}th request")
    wrong += [f"{name} was left" for name in left] + [f"the server said: {line}" for line in said.splitlines()]
    told = {
        "requests": dict(asked),
        "seconds": round(seconds, 1),
        "memory_mib": {number: round(used / 2**20) for number, used in memory.items()},
        "wrong": wrong,
    }
    print(json.dumps(told))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
