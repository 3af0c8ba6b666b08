"""Many pictures on many machines, by Ray Data: `nlsr upscale --ray`, and `upscale` for pipelines of your own.

    import nlsr.ray

    larger = nlsr.ray.upscale(ray.data.read_binary_files("pictures/"), column="bytes")

Ray starts the workers, gives them work, and replaces one that dies. Here it is decided, once and before, how every
picture is computed, so that the files are those that one machine makes; and what is finished is written down by the
one process that has the manifest. This needs `pip install 'nlsr[ray]'`.
"""

import contextlib
import errno
import logging
import os
import pickle
import platform
import socket
import tempfile
import uuid
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nlsr import interrupts, storage
from nlsr.errors import ImageError, NlsrError, UsageError
from nlsr.extras import require
from nlsr.images import one_line, read, write
from nlsr.imports import import_modules
from nlsr.memory import shown
from nlsr.upscale import Upscaler
from nlsr.upscale.batch import Done, Manifest, Part, Saving, Staging, Task, may_begin, pictures_alike
from nlsr.upscale.batch import run as run_here
from nlsr.upscale.precision import choose

require("ray", extra="ray")
# The library reads it when it is imported: nobody is told what is done here, nor that nobody is told.
if os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0") == "0":
    os.environ.setdefault("RAY_USAGE_STATS_REPORT_URL", "http://127.0.0.1:9")

import ray  # noqa: E402
import ray.data  # noqa: E402
from ray.util.annotations import RayDeprecationWarning  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

OWN = 2**29
"""Bytes that a worker takes beside its budget: Python, torch and the weights."""
GROUP = 16
"""Pictures that a worker is given at once: few are lost with it, and it reads and writes while it computes."""
ATTEMPTS = 3
"""How often a group is given to another worker; pictures that end every worker are then told one by one."""
PATIENCE = 120
"""Seconds in which a node has to answer."""


@dataclass(frozen=True)
class Room:
    """What one worker asks of a node.

    Args:
        threads: processors. memory: bytes, the budget and what the program itself takes. gpus: 1 or 0.
        most: how many workers are wanted; without it as many as there is room for.
    """

    threads: int
    memory: int
    gpus: int
    most: int | None = None

    @classmethod
    def of(cls, upscaler: Upscaler, *, most: int | None = None) -> "Room":
        """For workers that compute as this process would. Raises: UsageError for an engine that cannot be sent."""
        if upscaler.engine_name != "torch":
            raise UsageError(f"`ray`: workers compute with torch, not with {upscaler.engine_name}; leave out `engine`")
        return cls(torch.get_num_threads(), upscaler.budget + OWN, int(upscaler.device.type == "cuda"), most)

    def workers(self) -> int:
        """How many the cluster has room for, one at least. Raises: UsageError if it has none."""
        nodes = [node["Resources"] for node in _nodes()]
        counts = [
            min(
                int(node.get("CPU", 0)) // self.threads,
                int(node.get("memory", 0)) // self.memory,
                int(node.get("GPU", 0)) if self.gpus else 10**6,
            )
            for node in nodes
        ]
        if sum(counts):
            return min(sum(counts), self.most or sum(counts))
        largest = {name: max((node.get(name, 0) for node in nodes), default=0) for name in ("CPU", "memory", "GPU")}
        if self.gpus and largest["GPU"] < 1:
            raise UsageError("`ray`: no node has a GPU for `device=cuda`; leave it out")
        if largest["CPU"] < self.threads:
            raise UsageError(
                f"`ray`: no node has {self.threads} processors for a worker, the largest {int(largest['CPU'])}; "
                f"ask for less with `threads={max(1, int(largest['CPU']))}`"
            )
        raise UsageError(
            f"`ray`: no node has {shown(self.memory)} for a worker, its budget and {shown(OWN)} for the program; the "
            f"largest gives {shown(largest['memory'])}; allow less with `memory`"
        )

    def options(self, waiting: int) -> dict[str, Any]:
        """For a stage of Ray Data whose workers have this room, at each of which so many rows wait for their turn."""
        return {
            "compute": ray.data.ActorPoolStrategy(size=self.workers(), max_tasks_in_flight_per_actor=1 + waiting),
            "num_cpus": self.threads,
            "num_gpus": self.gpus,
            "memory": self.memory,
            "max_task_retries": ATTEMPTS,
        }


@contextlib.contextmanager
def cluster(address: str) -> Iterator[None]:
    """The context in which Ray is there; in the end it is left, or ended if it was started here.

    Args:
        address: "local" starts Ray on this machine; "auto" is the cluster that this machine belongs to, or the one of
            `RAY_ADDRESS`; else its address like "head:6379".
    Raises: UsageError if there is none, or one of another version.
    """
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else each job begins with a line about Ray's own actors
    if address == "local":
        options |= {"include_dashboard": False, "object_store_memory": 2**28, "num_cpus": os.cpu_count()}
        os.environ.setdefault("RAY_worker_niceness", "0")  # as this command's own; Ray's default is 15
    else:
        _check_reachable(address)
    try:
        with _silent():  # it writes that it has read the variable
            ray.init(address=address, **options)
    except Exception as error:  # Ray raises every kind of error here
        if "Version mismatch" in str(error):
            told = " ".join(str(error).split())
            raise UsageError(f"`ray={address}`: {told}; install the same Ray and Python on all machines") from error
        nowhere = address == "auto" and isinstance(error, ConnectionError)
        reason = "expected Ray to run on this machine, but it does not" if nowhere else _reason(error)
        raise UsageError(
            f"`ray={address}`: {reason}; give the address of its head, like head:6379, or start it here by `ray=local`"
        ) from error
    interrupts.listen()  # Ray takes signals for itself
    try:
        yield
    finally:
        ray.shutdown()


def run(
    upscaler: Upscaler,
    tasks: Sequence[Task],
    saving: Saving,
    *,
    manifest: Manifest,
    staging: Staging | None = None,
    workers: int | None = None,
) -> Generator[Done, None, None]:
    """As `nlsr.upscale.batch.run`, on the workers of the cluster; what became of each picture is given as it is known.

    Args:
        manifest: that of the folder of the results, which all nodes see under one name, or at an address.
        staging: what is known of files of object storage, which the workers fetch and send.
        workers: how many at most.
    Raises: UsageError for a cluster that cannot do it: too small, of another version, or without the folders.
    """
    alike = pictures_alike(upscaler, tasks, staging)
    known = [task for task in tasks if task.problem is not None]
    if known:
        yield from run_here(upscaler, known, saving, manifest=manifest, staging=staging)
    tasks = [task for task in tasks if task.problem is None]
    if not tasks:
        return
    room = Room.of(_decided(upscaler), most=workers)
    count = room.workers()
    _check_nodes(_differing, _versions(), _modules(upscaler), _precisions(upscaler), *_choosing(upscaler))
    _check_places(manifest.folder, tasks[0].source, staging)
    ours = {task.target for task in tasks if may_begin(task, saving, manifest, staging)}
    manifest.begin(*sorted(ours))
    size = max(1, min(GROUP, len(tasks) // (4 * count)))
    left = dict.fromkeys(tasks)
    for together, waiting in ((size, 1), (1, 0)):  # what was lost with its workers each time, is tried once more alone
        todo = list(left)
        groups = (
            _Group.of(todo[first : first + together], manifest, ours, staging, alike)
            for first in range(0, len(todo), together)
        )
        for done in _results(upscaler, groups, saving, manifest, room, waiting):
            left.pop(done.task, None)
            yield done
            if done.ends_all:
                return
        if not left:
            return
    manifest.clean({task.target.parent for task in left})
    for task in left:
        lost = ImageError("ended every worker that it was given to, most likely for want of memory; give it a budget")
        yield Done(task, "failed", error=lost)


def upscale(
    dataset: "ray.data.Dataset",
    *,
    column: str = "image",
    format: str = "png",
    quality: int | None = None,
    workers: int | None = None,
    **options: Any,
) -> "ray.data.Dataset":
    """A dataset whose pictures are enlarged, lazily, by workers that load the model once.

    Args:
        dataset: rows with a picture each, as bytes of a file or as an array (h, w), (h, w, 3) or (h, w, 4), uint8,
            uint16 or floating point in [0, 1].
        column: where the picture is and its result will be, of the same kind. The other columns stay.
        format, quality: of the bytes of results, as `nlsr.images.write` takes them.
        workers: how many at most; by default as many as the cluster has room for.
        options: as `Upscaler` takes them: model, scale, memory (of each worker), device ...
    Returns: the rows, with why one failed in a column `error`, else ""; its picture is then empty.
    Raises: as `Upscaler`, UsageError if the cluster has no room for a worker, or other versions.
    """
    upscaler = _decided(Upscaler(**options))
    room = Room.of(upscaler, most=workers)
    _check_nodes(_differing, _versions(), _modules(upscaler), _precisions(upscaler), *_choosing(upscaler))
    arguments = (ray.put(upscaler), room.threads, column, format, quality)
    return _mapped(dataset, _Rows, arguments, room, waiting=1)


def _mapped(
    dataset: "ray.data.Dataset", worker: type, arguments: tuple[Any, ...], room: Room, waiting: int
) -> "ray.data.Dataset":
    with warnings.catch_warnings():
        # There is no other way yet to say how often a picture that ends its workers is tried, which is for ever.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return dataset.map(worker, fn_constructor_args=arguments, **room.options(waiting))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The context in which nobody sees what libraries below Python write to standard error."""
    with open(os.devnull, "wb") as nowhere:
        before = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)


def _check_reachable(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise UsageError(f"`ray={address}`: cannot be reached ({error}); is Ray running there?") from error


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def _versions() -> dict[str, str]:
    """Of what decides about the bytes of results."""
    packages = ("nlsr", "torch", "numpy", "pillow", "imagecodecs", "tifffile")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _modules(upscaler: Upscaler) -> list[str]:
    """Names of those modules, beside the package's and torch's, of whose classes the loaded networks are made."""
    networks = (upscaler.models.network(scale) for scale in upscaler.models.scales)
    names = {type(part).__module__ for network in networks for part in network.modules()}
    return sorted(name for name in names if name.partition(".")[0] not in ("nlsr", "torch", "__main__"))


def _precisions(upscaler: Upscaler) -> dict[int, str]:
    """For pictures of so many bits."""
    return _chosen(*_choosing(upscaler))


def _choosing(upscaler: Upscaler) -> tuple[Any, ...]:
    return upscaler.precision, upscaler.device, upscaler.models.half_precisions


def _chosen(precision: Any, device: torch.device, made_for: tuple[str, ...] | None) -> dict[int, str]:
    return {depth: choose(precision, device, depth, made_for=made_for) for depth in (8, 16)}


def _check_places(folder: Path, source: Path, staging: Staging | None) -> None:
    """Raises: UsageError if a node does not see a picture, or cannot write results."""
    places = [(staging and staging.address(path)) or os.fspath(path) for path in (folder, source)]
    sign = _signed(places[0])
    try:
        _check_nodes(_out_of_reach, sign, places[1])
    finally:
        _remove(sign)


def _check_nodes(lacking: Callable[..., str], *arguments: Any) -> None:
    """Raises: UsageError if a node lacks something, which `lacking` says there in words."""
    question = ray.remote(num_cpus=0)(lacking)
    answers = []
    for node in _nodes():
        there = question.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        answers.append((node["NodeManagerAddress"], there.remote(*arguments)))
    for name, answer in answers:
        try:
            problem = ray.get(answer, timeout=PATIENCE)
        except ray.exceptions.GetTimeoutError:
            problem = f"has not answered within {PATIENCE} seconds; look at what it does, or take it out"
        except Exception as error:  # what runs there may be anything
            problem = f"{_reason(error)}; install the same nlsr, with the extra ray, on all nodes"
        if problem:
            raise UsageError(f"`ray`: node {name}: {problem}")


def _differing(versions: dict[str, str], modules: list[str], precisions: dict[int, str], *choosing: Any) -> str:
    for name, here in _versions().items():
        if here != versions[name]:
            return f"has {name} {here}, here it is {versions[name]}; install the same on all nodes"
    try:
        import_modules(modules)
    except UsageError as error:
        return f"{error}; install it on all nodes, or begin in a folder that all share and that holds it"
    if _chosen(*choosing) != precisions:
        return "its processor and the one here are not both made for bf16; add `precision=fp32`"
    return ""


def _out_of_reach(sign: str, source: str) -> str:
    folder, shared = os.path.dirname(sign), "choose a disk that all nodes share, with one name"
    try:
        if not _is_there(sign):
            return f"does not see {one_line(folder)} as it is here; {shared}"
        if not _is_there(source):
            return f"does not see {one_line(source)}; {shared}"
        _remove(_signed(folder))
    except OSError as error:
        return f"cannot write in {one_line(folder)} ({error.strerror}); change its permissions or choose another"
    except NlsrError as error:
        return str(error)
    return ""


def _signed(folder: str) -> str:
    """An empty file of a name that there is only once, like those that are removed if they are left behind."""
    sign = f"{folder}/.node.{uuid.uuid4().hex[:8]}.part"
    if storage.is_address(sign):
        storage.write_bytes(sign, b"")
    else:
        Path(sign).touch()
    return sign


def _is_there(place: str) -> bool:
    return storage.entry(place) is not None if storage.is_address(place) else os.path.lexists(place)


def _remove(place: str) -> None:
    if storage.is_address(place):
        storage.remove(place)
    else:
        Path(place).unlink(missing_ok=True)


@dataclass
class _Group:
    """Pictures that go to a worker together, and what is known of them."""

    tasks: Sequence[Task]
    part: Part
    staging: Staging | None
    alike: int
    """Of all pictures: what is made of one does not depend on its group."""

    @classmethod
    def of(
        cls, tasks: Sequence[Task], manifest: Manifest, ours: set[Path], staging: Staging | None, alike: int
    ) -> "_Group":
        targets = [task.target for task in tasks]
        known = staging.part([*targets, *(task.source for task in tasks)]) if staging else None
        return cls(tasks, Part(manifest, targets, ours), known, alike)

    def upscale(self, upscaler: Upscaler, saving: Saving) -> list[Done]:
        """What became of them. What comes from object storage, or goes there, lies in a folder of its own meanwhile."""
        if self.staging is None:
            made = run_here(upscaler, self.tasks, saving, manifest=self.part, alike=self.alike)
            return [_sendable(done) for done in made]
        with tempfile.TemporaryDirectory(prefix="nlsr-") as name:
            before, here = self.staging.folder, Path(name)
            moved = partial(self.staging.moved, folder=here)
            tasks = [replace(task, source=moved(task.source), target=moved(task.target)) for task in self.tasks]
            self.part.folder = moved(self.part.folder)
            self.staging.move(here)
            made = run_here(upscaler, tasks, saving, manifest=self.part, staging=self.staging, alike=self.alike)
            results = list(made)
        back = (str(here), str(before))
        return [replace(_sendable(done, back), task=task) for task, done in zip(self.tasks, results, strict=False)]


def _results(
    upscaler: Upscaler, groups: Iterable[_Group], saving: Saving, manifest: Manifest, room: Room, waiting: int
) -> Iterator[Done]:
    """What became of the pictures of groups, as it is known; of those whose workers died nothing.

    Args:
        waiting: groups that a worker has beside the one that it does; they are lost with it.
    """
    rows = [{"group": pickle.dumps(group)} for group in groups]
    arguments = (ray.put(upscaler), room.threads, saving)
    context = ray.data.DataContext.get_current().copy()
    context.max_errored_blocks = -1
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    with ray.data.DataContext.current(context):
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        answers = iter(_mapped(dataset, _Files, arguments, room, waiting).iter_rows())
        while (answer := _next(answers)) is not None:
            results, lines = pickle.loads(answer["results"])
            manifest.merge(lines)
            for done, full in results:
                if full:
                    done.error.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # pickling drops causes
                yield done


def _next(rows: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
    try:
        return next(rows, None)
    except ray.exceptions.RayError as error:
        raise ImageError(f"`ray`: {_reason(error)}; the same command with `resume` continues") from error


def _decided(upscaler: Upscaler) -> Upscaler:
    """With all networks loaded, so that workers need no file of theirs."""
    for scale in upscaler.models.scales:
        upscaler.models.cascade(scale)
    return upscaler


class _Worker:
    """One process with the model, which computes as the process that sends work would."""

    def __init__(self, upscaler: "ray.ObjectRef[Upscaler]", threads: int) -> None:
        torch.set_num_threads(threads)
        self.upscaler: Upscaler = ray.get(upscaler)


class _Files(_Worker):
    def __init__(self, upscaler: "ray.ObjectRef[Upscaler]", threads: int, saving: Saving) -> None:
        super().__init__(upscaler, threads)
        self.saving = saving

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        group = pickle.loads(row["group"])
        try:
            results = group.upscale(self.upscaler, self.saving)
        except Exception as error:  # of none of the pictures, such as a full disk
            results = [_sendable(Done(task, "failed", error=error)) for task in group.tasks]
        return {"results": pickle.dumps(([(done, done.disk_is_full) for done in results], group.part.lines))}


class _Rows(_Worker):
    def __init__(
        self, upscaler: "ray.ObjectRef[Upscaler]", threads: int, column: str, format: str, quality: int | None
    ) -> None:
        super().__init__(upscaler, threads)
        self.column, self.format, self.quality = column, format, quality

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        image, error = row[self.column], ""
        enlarge: Callable[[Any], Any] = self._of_bytes if isinstance(image, bytes) else self.upscaler
        try:
            larger = enlarge(image)
        except NlsrError as problem:
            larger, error = image[:0], str(problem)
        return {**row, self.column: larger, "error": error}

    def _of_bytes(self, image: bytes) -> bytes:
        with tempfile.TemporaryDirectory(prefix="nlsr-") as folder:
            path = Path(folder, "picture")
            path.write_bytes(image)
            try:
                result = self.upscaler.upscale(read(path)).picture
                write(path, result, format=self.format, quality=self.quality, overwrite=True)
            except NlsrError as error:
                raise type(error)(str(error).replace(f"{path}: ", "")) from error
            return path.read_bytes()


def _sendable(done: Done, renamed: tuple[str, str] = ("", "")) -> Done:
    """Without errors that cannot be sent, which are told by their words, in which a folder has another name."""
    error = done.error
    if error is None or isinstance(error, MemoryError):
        return done
    kind = type(error) if isinstance(error, NlsrError) else RuntimeError
    text = str(error) if isinstance(error, NlsrError) else f"{type(error).__name__}: {error}"
    said = kind(text.replace(*renamed) if all(renamed) else text)
    said.__cause__ = error.__cause__
    return replace(done, error=said)


def _reason(error: Exception) -> str:
    """The last line of what Ray says, where the error itself stands."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
