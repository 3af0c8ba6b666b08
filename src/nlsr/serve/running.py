"""The server as a process: an address, the line that says it, and an end that leaves nothing behind."""

import contextlib
import ctypes
import os
import socket
import tempfile
import webbrowser
from collections.abc import Callable
from typing import Any

import uvicorn

from nlsr.errors import Interrupted, NlsrError
from nlsr.serve.app import create_app
from nlsr.serve.settings import Settings

GRACE = 10
"""Seconds that open connections have when the server ends."""
KEPT_LESS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64", "MKL_DISABLE_FAST_MM": "1"}
"""By the libraries that compute: each size of a picture needs compiled convolutions, of which torch and oneDNN would
each keep 1,024, and MKL keeps working memory for each thread."""
M_ARENA_MAX = -8  # as malloc.h has it
HEAPS = 2
"""Heaps that threads share: each keeps what was freed in it."""
MOST_CONNECTIONS = 500
"""Beyond these, requests are answered with status 503."""


def run(settings: Settings, *, host: str, port: int, open_page: bool, say: Callable[[str], object]) -> None:
    """Serve until the process is told to stop.

    Args:
        port: 0 lets the system choose.
        say: called with the line that names the address, once the server answers.
    Raises: NlsrError if the address or a private folder cannot be had; Interrupted when it was told to stop.
    """
    listening = _listening(host, port)
    _take_little_memory()
    try:
        app = create_app(settings)
    except OSError as error:
        raise NlsrError(f"no private folder can be made ({error}); set NLSR_CACHE to a folder that can be") from error
    tempfile.tempdir = str(app.state.folder)  # where large uploads lie until they are whole
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listening.getsockname()[1]}/"
    if settings.token is not None:
        address += f"#token={settings.token}"

    def started() -> None:
        say(address)
        if open_page:
            webbrowser.open(address)

    server = _Server(app, started)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn hands the signal on when it is done
        server.run(sockets=[listening])
    abandoned = app.state.abandoned
    lost = f"; {abandoned} unfinished {'job was' if abandoned == 1 else 'jobs were'} abandoned" if abandoned else ""
    raise Interrupted(f"stopped{lost}")


def _take_little_memory() -> None:
    """To be called before torch is imported: a server that sees pictures of every size would grow for a long time."""
    for name, value in KEPT_LESS.items():
        os.environ.setdefault(name, value)
    with contextlib.suppress(OSError):  # only glibc has several heaps
        ctypes.CDLL("libc.so.6").mallopt(M_ARENA_MAX, HEAPS)


class _Server(uvicorn.Server):
    def __init__(self, app: Any, started: Callable[[], object]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",  # which limits the size of headers
                ws="none",
                log_level="warning",
                access_log=False,
                server_header=False,
                limit_concurrency=MOST_CONNECTIONS,
                timeout_graceful_shutdown=GRACE,
            )
        )
        self._app, self._started = app, started

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._started()

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._app.state.stop()
        super().handle_exit(sig, frame)


def _listening(host: str, port: int) -> socket.socket:
    """Raises: NlsrError if the address cannot be listened on."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=256)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NlsrError(
            f"cannot listen on {host} port {port} ({reason}); choose another with --host or --port"
        ) from error
    listening.set_inheritable(False)
    return listening
