"""Measurements in processes that wait between them, so that they can take turns and one that dies takes no other along.

A worker imports once and says so, then answers requests: a name, a function's arguments, a result, one JSON line each.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from nlsr.errors import NlsrError


class Failed(NlsrError):
    """A measurement that gave no result; the message says why."""


class Worker:
    """A process that runs the functions of one module, one at a time."""

    def __init__(self, module: str, *, threads: int, modules: Sequence[str] = ()) -> None:
        """
        Args:
            module: its `REQUESTS` maps names to functions of JSON values.
            threads: how many threads torch uses.
            modules: names of further modules to import, with the current folder looked into first.
        """
        self.module, self.threads, self.modules = module, threads, modules
        self.process: subprocess.Popen[str] | None = None

    def ask(self, request: str, *arguments: Any, limit: float) -> Any:
        """The result of a request.

        Args:
            limit: seconds; a worker that needs longer is killed, and started anew for the next request. The time
                that its process needs to load libraries does not count.
        Raises: Failed if it took too long, ran out of memory or raised.
        """
        if self.process is None:
            self._start()
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([request, arguments]) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self._next_line(limit))
        if "error" in answer:
            raise Failed(answer["error"])
        return answer["result"]

    def _next_line(self, limit: float | None) -> str:
        try:
            line = self.answers.get(timeout=limit)
        except queue.Empty:
            self.close()
            raise Failed(f"more than {limit:.0f} s") from None
        if not line:
            self.close()
            raise Failed("the process died, most likely out of memory")
        return line

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.listener.join()
            with self.process:  # closes its pipes
                self.process = None

    def _start(self) -> None:
        command = [sys.executable, "-m", "nlsr.benchmark.workers", self.module, str(self.threads), *self.modules]
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.answers: queue.Queue[str] = queue.Queue()
        self.listener = threading.Thread(target=_listen, args=(self.process, self.answers), daemon=True)
        self.listener.start()
        self._next_line(limit=None)  # it is ready, or dead


def _listen(process: subprocess.Popen[str], answers: "queue.Queue[str]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        answers.put(line)
    answers.put("")  # it has ended


def _serve(module: str, threads: int, modules: Sequence[str]) -> None:
    import importlib

    import torch

    from nlsr.imports import import_modules
    from nlsr.memory import out_of_memory

    import_modules(modules)
    torch.set_num_threads(threads)
    requests = importlib.import_module(module).REQUESTS
    print("ready", flush=True)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"result": requests[name](*arguments)}
        except Exception as error:  # said in a word where the measurement would have stood
            lines = str(error).strip().splitlines() or [type(error).__name__]
            answer = {"error": "out of memory" if out_of_memory(error) else lines[0]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
