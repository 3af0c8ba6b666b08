"""The queue: jobs wait, one is computed, finished ones are kept for a while. Knows nothing of HTTP.

A waiting job of a server that was killed is computed by the next one; the job that was running says what happened, for
it may be what ended the server.
"""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlsr.serve.answers import State
from nlsr.serve.asked import Asked
from nlsr.serve.computing import Cancelled, Computing, Estimate, readable
from nlsr.serve.problems import Problem, details, status_of, told
from nlsr.serve.settings import Settings
from nlsr.serve.store import Store

ACTIVE = ("waiting", "running")
KILLED = "the server was ended while this was computed; send it again, with less if memory ran out"
PICTURE, RESULT = "picture", "result"


@dataclass(eq=False)
class Job:
    """A picture on its way. `at_once` is one whose client waits for the answer: it goes first and leaves no record."""

    folder: Path
    name: str
    asked: Asked
    client: str
    estimate: dict[str, Any]
    at_once: bool = False
    created: float = field(default_factory=time.time)
    state: State = "waiting"
    part: float = 0.0
    started: float | None = None
    finished: float | None = None
    problem: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def picture(self) -> Path:
        return self.folder / PICTURE

    @property
    def file(self) -> Path:
        return self.folder / f"{RESULT}.{self.asked.format}"

    @property
    def result_name(self) -> str:
        """What a client may call the result."""
        stem = self.name.rpartition(".")[0] or self.name
        return f"{stem}_{self.estimate['new_width']}x{self.estimate['new_height']}.{self.asked.format}"

    def shown(self) -> dict[str, Any]:
        """What clients see."""
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "progress": round(self.part, 4),
            "seconds_left": self._seconds_left(),
            "created": self.created,
            "finished": self.finished,
            "options": self.asked.model_dump(exclude_defaults=True),
            "estimate": self.estimate,
            "result": self.result,
            "problem": self.problem,
        }

    def record(self) -> dict[str, Any]:
        """What the next server needs to know."""
        names = ("name", "client", "estimate", "created", "state", "finished", "problem", "result")
        return {name: getattr(self, name) for name in names} | {"asked": self.asked.model_dump(exclude_defaults=True)}

    def _seconds_left(self) -> float | None:
        if self.state == "waiting":
            return self.estimate.get("seconds")
        if self.state != "running" or self.started is None:
            return None
        elapsed = time.time() - self.started
        if self.part > 0:
            return round(elapsed * (1 - self.part) / self.part, 1)
        expected = self.estimate.get("seconds")
        return None if expected is None else round(max(0.0, expected - elapsed), 1)


class Jobs:
    """The queue of a server and the thread that computes."""

    def __init__(self, settings: Settings, store: Store, computing: Computing) -> None:
        self.settings, self.store, self.computing = settings, store, computing
        self.changed: Callable[[Job], object] = lambda job: None
        """Called from any thread after a job changed."""
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="nlsr-serve", daemon=True)

    def start(self) -> None:
        """Take over what a killed server left, and begin."""
        for folder, record in self.store.take_over():
            self._take_over(folder, record)
        self._thread.start()

    def close(self) -> int:
        """Abandon what is computed and what waits, and wait until the thread has ended; how many were abandoned."""
        with self._lock:
            self._closing = True
            self.computing.closing.set()
            # What is cancelled and not forgotten ended because the server does.
            active = [job for job in self._jobs.values() if job.state in (*ACTIVE, "cancelled")]
            for job in active:
                job.cancelled.set()
            self._lock.notify_all()
        self._thread.join()
        return len(active)

    def check_room(self, client: str) -> None:
        """Raises: Problem if the queue, or the share of a client, is full."""
        with self._lock:
            jobs = list(self._jobs.values())
        if sum(job.state in ACTIVE for job in jobs) >= self.settings.max_waiting:
            raise Problem(429, "the queue is full; ask again when jobs are finished", {"retry-after": "10"})
        most = self.settings.max_jobs_per_client
        if sum(job.client == client for job in jobs) >= most:
            raise Problem(429, f"expected at most {most} jobs of one address; delete finished ones")

    def add(self, folder: Path, name: str, asked: Asked, client: str, *, at_once: bool = False) -> Job:
        """Put a picture that lies in a folder of the store into the queue; the folder is removed if it is refused.

        Raises: Problem for a full queue and for what can be refused before anything is computed.
        """
        try:
            estimate = self._estimated(folder / PICTURE, name, asked)
            job = Job(folder, name, asked, client, vars(estimate), at_once)
            self.check_room(client)
            self._record(job)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        with self._lock:
            self._jobs[job.id] = job
            self._lock.notify_all()
        self.changed(job)
        return job

    def get(self, id: str) -> Job:
        """Raises: Problem for an id that no job has."""
        job = self._jobs.get(id)
        if job is None:
            raise Problem(404, "there is no such job; it was deleted, or removed because of its age")
        return job

    def all(self) -> list[Job]:
        """Those that have a record, the oldest first."""
        with self._lock:
            return [job for job in self._jobs.values() if not job.at_once]

    def delete(self, job: Job) -> None:
        """Forget a job in whatever state: what is computed is cancelled, its files are removed."""
        with self._lock:
            self._jobs.pop(job.id, None)
            job.cancelled.set()
            running = job.state == "running"
            job.state, job.finished = "cancelled" if job.state in ACTIVE else "deleted", time.time()
        if not running:
            shutil.rmtree(job.folder, ignore_errors=True)
        self.changed(job)

    def forget_old(self) -> None:
        """Delete what was finished too long ago."""
        before = time.time() - self.settings.keep
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            if job.finished is not None and job.finished < before:
                self.delete(job)

    def counts(self) -> dict[str, int]:
        with self._lock:
            states = [job.state for job in self._jobs.values()]
        return {state: states.count(state) for state in ("waiting", "running", "done", "failed")}

    def _estimated(self, picture: Path, name: str, asked: Asked) -> Estimate:
        """Raises: Problem, whose words are those of the command."""
        try:
            return self.computing.estimate(asked, self.computing.header(picture))
        except Exception as error:
            raise Problem(**_words(error, {picture: name})) from error

    def _take_over(self, folder: Path, record: dict[str, Any]) -> None:
        try:
            asked = Asked.model_validate(record.pop("asked"))
            job = Job(folder, asked=asked, **record)
        except (TypeError, ValueError, KeyError):
            shutil.rmtree(folder, ignore_errors=True)  # of another version
            return
        if job.state == "running":
            job.state, job.finished, job.problem = "failed", time.time(), details(500, KILLED)
            self._record(job)
        self._jobs[job.id] = job

    def _work(self) -> None:
        while True:
            with self._lock:
                job = self._next()
                while job is None and not self._closing:
                    self._lock.wait()
                    job = self._next()
                if self._closing or job is None:
                    return
                job.state, job.started = "running", time.time()
            self._told(job)
            self._compute(job)
            with self._lock:
                forgotten = job.id not in self._jobs
                if forgotten:
                    job.state = "cancelled"  # in the last moment
                job.finished = time.time()
            if forgotten:
                shutil.rmtree(job.folder, ignore_errors=True)
            self._told(job)

    def _next(self) -> Job | None:
        waiting = [job for job in self._jobs.values() if job.state == "waiting"]
        return min(waiting, key=lambda job: (not job.at_once, job.created), default=None)

    def _compute(self, job: Job) -> None:
        def report(part: float) -> None:
            job.part = part
            self.changed(job)

        names = {job.picture: job.name, job.file: job.result_name}
        try:
            done = self.computing.upscale(job.picture, job.file, job.asked, cancelled=job.cancelled, report=report)
            if done.error is not None:
                raise done.error
            assert done.outcome is not None
            job.result = {
                "name": job.result_name,
                "bytes": job.file.stat().st_size,
                "width": done.outcome.plan.new_width,
                "height": done.outcome.plan.new_height,
                "seconds": round(done.outcome.seconds, 3),
                "plan": str(done.outcome.plan),
                "notes": list(done.notes),
            }
            job.part, job.state = 1.0, "done"
        except Cancelled:
            job.state = "cancelled"
        except Exception as error:
            words = _words(error, names)
            job.problem, job.state = details(words["status"], words["detail"]), "failed"

    def _told(self, job: Job) -> None:
        try:
            if job.id in self._jobs:
                self._record(job)
        except OSError:
            pass  # a full disk, or a folder that is being removed: the job itself goes on
        self.changed(job)

    def _record(self, job: Job) -> None:
        if not job.at_once:
            self.store.write(job.folder, job.record())


def _words(error: Exception, names: dict[Path, str]) -> dict[str, Any]:
    from nlsr.errors import NlsrError
    from nlsr.memory import out_of_memory

    if out_of_memory(error):
        return {"status": 507, "detail": "out of memory; ask for a smaller size or smaller tiles"}
    status = status_of(error)
    known = isinstance(error, NlsrError) and status != 507
    return {"status": status, "detail": " ".join(readable(error, names).split()) if known else told(error)}
