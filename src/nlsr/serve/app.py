"""The HTTP API and the page. What is computed, queued and kept is in the modules beside this one."""

import asyncio
import io
import json
import shutil
import tempfile
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Form, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from nlsr.default import DEFAULT_MODEL
from nlsr.errors import ImageError, NlsrError
from nlsr.serve.answers import PROBLEM, Estimated, Explained, Health, JobShown, Models
from nlsr.serve.asked import FORMATS, Asked
from nlsr.serve.computing import Cancelled, Computing, readable
from nlsr.serve.explaining import Explorer, Gone
from nlsr.serve.jobs import ACTIVE, PICTURE, Job, Jobs
from nlsr.serve.problems import MEDIA_TYPE, Problem, details, handle
from nlsr.serve.security import Guard
from nlsr.serve.settings import Settings
from nlsr.serve.store import Store

ENDS = "the server ends; nothing was computed"
HEARTBEAT = 15
"""Seconds after which a stream of events says that it is still there."""
CLEAN_UP = 5
"""Most seconds between two looks for what is too old, and for memory that nobody uses."""
LOOKING = 4
"""Questions about pixels, and pictures to be shown, that are worked on at the same time; others wait for these, so that
the rest of the server has threads left."""
THREADS = 8
"""For everything else that would keep the server from answering: files, headers of pictures, estimates. Each thread has
memory of its own that it does not give back."""
PIECE = 2**20
"""Bytes of an archive that are sent at a time."""


class UpscaleForm(Asked):
    """A picture and what is to be done with it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"file": "photo.jpg", "scale": 4, "format": "png"}]})

    file: UploadFile = Field(description="The picture.")


class EstimateBody(Asked):
    """The size of a picture and what is to be done with it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"picture_width": 512, "picture_height": 384, "scale": 4}]}
    )
    picture_width: int = Field(ge=1, le=2**31, examples=[512])
    picture_height: int = Field(ge=1, le=2**31, examples=[512])
    alpha: bool = False


class ExplainForm(BaseModel):
    """A pixel of a picture, which is sent, that of a job, or one that was asked about before."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"picture": "q3vV5m1w0ZKx9c2A", "x": 189, "y": 128}]}
    )

    file: UploadFile | None = Field(None, description="A picture; the answer has the id by which it is known then.")
    job: str | None = Field(None, max_length=100, description="The id of a job whose picture is meant.")
    picture: str | None = Field(None, max_length=100, description="The id of a picture that was asked about before.")
    x: int = Field(ge=0, le=2**31, description="Of the pixel, counted from 0 at the left.", examples=[40])
    y: int = Field(ge=0, le=2**31, description="Counted from 0 at the top.", examples=[30])
    model: str | None = Field(None, max_length=200, description="By default `explained` of `GET /api/models`.")
    affinity: int = Field(0, ge=0, le=1000, description="Which affinity of the network.")
    count: int = Field(12, ge=1, le=200, description="How many of the strongest pixels are listed.")
    attribution_steps: int = Field(0, ge=0, le=200, description="Steps of the local attribution map; 0 leaves it out.")


class Events:
    """Wakes those who wait for a job to change, or for the server to end."""

    def __init__(self) -> None:
        self.stopping = False
        self.watching: set[asyncio.Queue[Job | None]] = set()
        self.loop: asyncio.AbstractEventLoop | None = None

    def changed(self, job: Job) -> None:
        """From any thread."""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._tell, job)

    def stop(self) -> None:
        """From any thread, or a handler of signals: streams end."""
        self.stopping = True
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._tell, None)

    def _tell(self, job: Job | None) -> None:
        for queue in self.watching:
            queue.put_nowait(job)

    @contextmanager
    def watch(self) -> Iterator[asyncio.Queue[Job | None]]:
        """A queue of the jobs that change from now on; None when the server ends."""
        queue: asyncio.Queue[Job | None] = asyncio.Queue()
        self.watching.add(queue)
        try:
            yield queue
        finally:
            self.watching.discard(queue)


def create_app(settings: Settings) -> FastAPI:
    """The application; its folder and its thread are there between start and end of its lifespan."""
    store = Store(settings.folder)
    computing = Computing(settings)
    jobs, explorer, events = Jobs(settings, store, computing), Explorer(computing), Events()
    asking, showing = CapacityLimiter(LOOKING), CapacityLimiter(LOOKING)

    def changed(job: Job) -> None:
        events.changed(job)
        if job.state in ("cancelled", "deleted"):
            explorer.forget(job.id)

    jobs.changed = changed

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        events.loop = asyncio.get_running_loop()
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        jobs.start()
        cleaning = asyncio.create_task(_clean_up(jobs, computing, every=min(CLEAN_UP, settings.keep)))
        try:
            yield
        finally:
            cleaning.cancel()
            stop()
            app.state.abandoned = await run_in_threadpool(jobs.close)
            store.close()

    app = FastAPI(
        title="nlsr",
        version=version("nlsr"),
        summary="Enlarge pictures, and see where their pixels come from.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        responses={"4XX": {"description": "Problem details (RFC 9457)", "content": {MEDIA_TYPE: {"example": PROBLEM}}}},
    )

    def stop() -> None:
        computing.closing.set()
        events.stop()

    app.state.abandoned, app.state.stop, app.state.folder = 0, stop, store.folder
    for kind in (HTTPException, RequestValidationError, NlsrError, OSError):
        app.add_exception_handler(kind, handle)
    app.add_middleware(Guard, settings=settings)

    async def kept(upload: UploadFile) -> Path:
        """The folder of a new job with an upload in it."""
        folder = store.new()
        try:
            with open(folder / PICTURE, "wb") as file:
                await run_in_threadpool(shutil.copyfileobj, upload.file, file)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder

    async def queued(form: UpscaleForm, request: Request, *, at_once: bool = False) -> Job:
        client = request.client.host if request.client else ""
        jobs.check_room(client)
        asked = Asked.model_validate(form.model_dump(exclude={"file"}))
        folder = await kept(form.file)
        return await run_in_threadpool(jobs.add, folder, safe_name(form.file.filename), asked, client, at_once=at_once)

    @app.get("/api/health")
    async def health() -> Health:
        """Whether the server is there, and how much it has to do."""
        return Health(status="ok", version=app.version, jobs=jobs.counts(), token=settings.token is not None)

    @app.get("/api/models", response_model=Models)
    def models() -> dict[str, Any]:
        """What can be asked for: families of weights, weights, and their scales."""
        return _models(settings)

    @app.post("/api/upscale", response_class=Response, responses=_a(*FORMATS.values()))
    async def upscale(form: Annotated[UpscaleForm, Form(media_type="multipart/form-data")], request: Request) -> Any:
        """A picture in, the larger picture out. Whoever hangs up cancels it."""
        job = await queued(form, request, at_once=True)
        try:
            await _finished(job, events, request)
            if job.state != "done":
                problem = job.problem or details(503, ENDS)
                raise Problem(problem["status"], problem["detail"])
        except BaseException:
            jobs.delete(job)
            raise
        return FileResponse(
            job.file,
            media_type=FORMATS[job.asked.format],
            filename=job.result_name,
            background=BackgroundTask(jobs.delete, job),
        )

    @app.post("/api/estimate", response_model=Estimated)
    def estimate(body: EstimateBody) -> dict[str, Any]:
        """Size, memory and time of an upscaling, before a picture is sent."""
        from nlsr.images import Header

        header = Header(body.picture_height, body.picture_width, body.alpha, 8, 0)
        asked = Asked.model_validate(body.model_dump(include=set(Asked.model_fields)))
        return vars(computing.estimate(asked, header))

    @app.post("/api/jobs", status_code=201, response_model=JobShown)
    async def create_job(
        form: Annotated[UpscaleForm, Form(media_type="multipart/form-data")], request: Request, response: Response
    ) -> dict[str, Any]:
        """Put a picture into the queue; what can be refused before it is computed is refused here."""
        job = await queued(form, request)
        response.headers["location"] = f"/api/jobs/{job.id}"
        return job.shown()

    @app.get("/api/jobs", response_model=list[JobShown])
    async def list_jobs() -> list[dict[str, Any]]:
        """All jobs, the oldest first."""
        return [job.shown() for job in jobs.all()]

    @app.get("/api/events", response_class=StreamingResponse, responses=_a("text/event-stream", example=EVENT))
    async def all_events() -> StreamingResponse:
        """Server-sent events `job` (its state, as in `GET /api/jobs/{id}`) of all jobs, as they change."""
        return StreamingResponse(_events(events, None), media_type="text/event-stream")

    @app.get("/api/results.zip", response_class=StreamingResponse, responses=_a("application/zip"))
    async def results(id: Annotated[list[str], Query(max_length=1000)]) -> StreamingResponse:
        """The results of several jobs in one file."""
        chosen = [_done(jobs.get(each)) for each in dict.fromkeys(id)]
        named = {"content-disposition": 'attachment; filename="nlsr.zip"'}
        return StreamingResponse(_zip(chosen), media_type="application/zip", headers=named)

    @app.get("/api/jobs/{id}", response_model=JobShown)
    async def job(id: str) -> dict[str, Any]:
        """The state of a job, also `cancelled` or `deleted` in events; progress from 0 to 1; seconds left."""
        return jobs.get(id).shown()

    @app.get(
        "/api/jobs/{id}/events", response_class=StreamingResponse, responses=_a("text/event-stream", example=EVENT)
    )
    async def job_events(id: str) -> StreamingResponse:
        """Server-sent events `job` of one job, until it is finished."""
        return StreamingResponse(_events(events, jobs.get(id)), media_type="text/event-stream")

    @app.get("/api/jobs/{id}/result", response_class=FileResponse, responses=_a(*FORMATS.values()))
    async def result(id: str) -> FileResponse:
        """The larger picture."""
        job = _done(jobs.get(id))
        return FileResponse(job.file, media_type=FORMATS[job.asked.format], filename=job.result_name)

    @app.get("/api/jobs/{id}/picture", response_class=FileResponse, responses=_a("application/octet-stream"))
    async def picture(id: str) -> FileResponse:
        """The picture as it was sent."""
        job = jobs.get(id)
        return FileResponse(job.picture, media_type="application/octet-stream", filename=job.name)

    @app.get("/api/jobs/{id}/preview.png", response_class=Response, responses=_a("image/png"))
    async def preview(id: str, of: Literal["picture", "result"] = "result") -> Response:
        """Picture or result as PNG of 8 bits, which every browser shows."""
        job = jobs.get(id)
        file, name = (job.picture, job.name) if of == "picture" else (_done(job).file, job.result_name)
        png = await to_thread.run_sync(_shown, file, name, computing, limiter=showing)
        return Response(png, media_type="image/png")

    @app.delete("/api/jobs/{id}", status_code=204)
    async def delete(id: str) -> None:
        """Cancel a job that is not finished, and forget it with its files."""
        jobs.delete(jobs.get(id))

    @app.post("/api/explain", response_model=Explained)
    async def explain(
        form: Annotated[ExplainForm, Form(media_type="multipart/form-data")], request: Request
    ) -> dict[str, Any]:
        """What a pixel draws on. The picture is matched once and kept; later pixels take a fraction of a second."""
        given = [name for name in ("file", "job", "picture") if getattr(form, name) is not None]
        if len(given) != 1:
            raise Problem(400, f"expected one of file, job and picture, got {' and '.join(given) or 'none'}")
        folder = await kept(form.file) if form.file is not None else None
        try:
            return await looked(request, lambda cancelled: _explained(form, jobs, explorer, folder, cancelled))
        except Gone as gone:
            raise Problem(404, str(gone)) from gone
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    async def looked(request: Request, work: Callable[[threading.Event], Any]) -> Any:
        """What is found in a thread, unless whoever asked hangs up."""
        cancelled = threading.Event()
        gone = asyncio.create_task(_hung_up(request))
        gone.add_done_callback(lambda _: cancelled.set())
        try:
            return await to_thread.run_sync(work, cancelled, limiter=asking)
        except Cancelled as error:
            raise Problem(503, ENDS) from error
        finally:
            gone.cancel()

    app.mount("/", StaticFiles(directory=str(files("nlsr.serve") / "static"), html=True))
    return app


EVENT = 'event: job\ndata: {"id": "m5Zt0Y8kYw2Yw6J1cB3x", "state": "running", "progress": 0.5, "seconds_left": 1.2}\n\n'


def _a(*media_types: str, example: str | None = None) -> dict[int | str, dict[str, Any]]:
    """What an operation answers with that is not JSON, for OpenAPI."""
    shown = (
        {"schema": {"type": "string", "format": "binary"}}
        if example is None
        else {"schema": {"type": "string"}, "example": example}
    )
    return {200: {"description": "Successful Response", "content": dict.fromkeys(media_types, shown)}}


def safe_name(name: str | None) -> str:
    """The last part of a client's name of a file, to be shown; no file ever has it."""
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    printable = "".join(letter for letter in last if letter.isprintable()).strip(". ")
    return printable[-120:] or PICTURE


def _models(settings: Settings) -> dict[str, Any]:
    from nlsr.weights import attentions, find, looked_into
    from nlsr.weights.catalogue import available, family, known_files

    known = {each.model: each for each in known_files()}
    named = [
        {
            "name": name,
            "scale": known[name].scale,
            "network": known[name].network,
            "licence": known[name].licence,
            "attention": attentions(path),
        }
        for name, path in available().items()
    ]
    own = [
        {"name": name, "scale": None, "network": None, "licence": "yours", "attention": attentions(path)}
        for name, path in settings.models.items()
    ]
    families = dict.fromkeys(str(each["name"]).rpartition("-x")[0] for each in named)
    return {
        "default": DEFAULT_MODEL,
        "explained": looked_into(),
        "families": [
            {"name": name, "scales": list(family(name)), "attention": attentions(find(name))} for name in families
        ],
        "models": own + named,
        "formats": list(FORMATS),
    }


def _explained(
    form: ExplainForm, jobs: Jobs, explorer: Explorer, folder: Path | None, cancelled: threading.Event
) -> dict[str, Any]:
    from nlsr.weights import looked_into

    if form.job is not None:
        job = jobs.get(form.job)
        id = explorer.add(job.picture, key=job.id)
    elif folder is not None:
        id = explorer.add(folder / PICTURE)
    else:
        id = form.picture or ""
    at, model, steps = (form.x, form.y), form.model or looked_into(), form.attribution_steps
    told = explorer.ask(id, at, model=model, affinity=form.affinity, count=form.count, cancelled=cancelled)
    attribution = explorer.attribution(id, at, model=model, steps=steps, cancelled=cancelled) if steps else None
    return told | {"attribution": attribution}


async def _finished(job: Job, events: Events, request: Request) -> None:
    """Return when a job is finished, when its client hung up, or when the server ends."""
    gone = asyncio.create_task(_hung_up(request))
    try:
        with events.watch() as queue:
            while job.state in ACTIVE and not events.stopping and not gone.done():
                told = asyncio.create_task(queue.get())
                await asyncio.wait({told, gone}, return_when=asyncio.FIRST_COMPLETED)
                told.cancel()
    finally:
        gone.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(events: Events, job: Job | None) -> AsyncIterator[str]:
    """Of one job until it is finished, or of all until the server ends."""
    with events.watch() as queue:
        told = None if job is None else job.state
        yield ": watching\n\n" if job is None else _event(job)
        while not events.stopping and (job is None or job.state in ACTIVE):
            try:
                changed = await asyncio.wait_for(queue.get(), HEARTBEAT)
            except TimeoutError:
                yield ": still here\n\n"
                continue
            if changed is not None and (changed is job or (job is None and not changed.at_once)):
                told = changed.state
                yield _event(changed)
        if job is not None and told in ACTIVE:  # its end was seen before its event came
            yield _event(job)


def _event(job: Job) -> str:
    return f"event: job\ndata: {json.dumps(job.shown())}\n\n"


def _done(job: Job) -> Job:
    if job.state != "done":
        raise Problem(409, f"this job is {job.state}; its result is there when it is done")
    return job


class _Pieces(io.RawIOBase):
    """What is written, to be taken piece by piece."""

    def __init__(self) -> None:
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, part: Any) -> int:
        self._written += part
        return len(part)

    def take(self) -> bytes:
        piece = bytes(self._written)
        self._written.clear()
        return piece


def _zip(chosen: list[Job]) -> Iterator[bytes]:
    """Results under different names in one file, which is not compressed: pictures are already."""
    pieces = _Pieces()
    with zipfile.ZipFile(pieces, "w") as archive:
        for job, name in zip(chosen, different([job.result_name for job in chosen]), strict=True):
            entry = zipfile.ZipInfo.from_file(job.file, name)
            with open(job.file, "rb") as source, archive.open(entry, "w") as target:
                while part := source.read(PIECE):
                    target.write(part)
                    yield pieces.take()
    yield pieces.take()


def different(names: list[str]) -> list[str]:
    """Names of files of which no two are equal, whatever their letters' case: a number goes before the ending."""
    found: list[str] = []
    taken: set[str] = set()
    for name in names:
        stem, dot, ending = name.rpartition(".")
        number = 1
        while (free := name if number == 1 else f"{stem}_{number}{dot}{ending}").lower() in taken:
            number += 1
        taken.add(free.lower())
        found.append(free)
    return found


def _shown(path: Path, name: str, computing: Computing) -> bytes:
    """A picture as the page shows it. Colours are those of its own profile. Raises: ImageError."""
    from nlsr.images import read, write

    with computing.showing, tempfile.TemporaryDirectory(dir=path.parent) as folder:
        try:
            picture = read(path, max_pixels=computing.settings.max_pixels)
        except ImageError as error:
            raise ImageError(readable(error, {path: name})) from error
        shown = Path(folder, "shown.png")
        write(shown, replace(picture, depth=8, exif=None, xmp=None, iptc=None, text=()))
        return shown.read_bytes()


async def _clean_up(jobs: Jobs, computing: Computing, *, every: float) -> None:
    while True:
        await asyncio.sleep(every)
        await run_in_threadpool(jobs.forget_old)
        await run_in_threadpool(computing.give_back)
