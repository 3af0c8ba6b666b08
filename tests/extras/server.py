"""A server in a process of its own, on a port that the system chooses, and a client of it."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import httpx

TRIES = 600
"""Looks at a folder, a tenth of a second apart, before what is still there is called left."""


class Server:
    """A running server and a client of it."""

    def __init__(self, folder, model, *options, first="pass"):
        """
        Args:
            first: what the process of the server executes before anything else.
        """
        environment = os.environ | {"NLSR_CACHE": str(folder), "OMP_NUM_THREADS": "1"}
        program = f"{first}\nimport sys\nfrom nlsr.cli import main\nsys.exit(main())"
        command = [sys.executable, "-c", program, "serve", "--port", "0", "-m", str(model), *options]
        self.folder = folder / "serve"
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.line = self.process.stdout.readline()
        self.url = re.search(r"http://[^/]*", self.line)[0]
        self.port = int(self.url.rpartition(":")[2])
        self.client = httpx.Client(base_url=self.url, timeout=300)

    def send(self, picture, name="a.png", to="/api/upscale", **options):
        return self.client.post(to, files={"file": (name, picture)}, data={"model": "tiny"} | options)

    def events(self, job):
        """The states of a job, from events, until it is finished."""
        with self.client.stream("GET", f"/api/jobs/{job}/events") as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    def until(self, job, *states):
        return next(event for event in self.events(job) if event["state"] in states)

    def left(self):
        """The folders of jobs that stay: some are removed after their answer was sent, which is waited for."""
        for _ in range(TRIES):
            found = [path for path in self.folder.glob("*/*") if path.is_dir()]
            if not found:
                break
            time.sleep(0.1)
        return found

    def end(self, number=signal.SIGINT):
        """Its exit code and the rest of what it said."""
        self.client.close()
        self.process.send_signal(number)
        said = self.process.stdout.read()
        return self.process.wait(), said
