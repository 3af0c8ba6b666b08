"""Who may ask, from where, and how much: the outermost layer of the server. Knows nothing of pictures.

A page of another site cannot use the server: a request that names another origin is refused, so is one whose `Host` is
not a name of this server (a rebound DNS name), and no answer permits reading from elsewhere.
"""

import hmac
import re
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from nlsr.serve.problems import Problem, answer, response
from nlsr.serve.settings import MIB, Settings

SMALL = 2**16
"""Bytes of a request that is no form."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """An ASGI application in front of another one."""

    def __init__(self, app: Any, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        begun = False

        async def send_guarded(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                if scope["path"].startswith("/api/"):
                    added.append((b"cache-control", b"no-store"))
                message = message | {"headers": [*message["headers"], *added]}
            await send(message)

        try:
            self._check(scope)
        except Problem as problem:
            await response(problem.status_code, problem.detail, problem.headers)(scope, receive, send_guarded)
            return
        limit = self._limit(scope)
        try:
            await self.app(scope, self._limited(receive, limit), send_guarded)
        except Exception as error:  # a mistake, of which the terminal is told by whoever called
            if not begun:
                await answer(error)(scope, receive, send_guarded)
            raise

    def _check(self, scope: Any) -> None:
        """Raises: Problem for a request that is not to be answered."""
        if ".." in scope["path"].replace("\\", "/").split("/"):
            raise Problem(404, "there is nothing at this path")
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if not is_ours(host, self.settings):
            raise Problem(
                421, "this server is not called by this name; open the address that it printed, or see --allow-host"
            )
        origin = headers.get("origin")
        other = headers.get("sec-fetch-site") in ("cross-site", "same-site") and scope["path"].startswith("/api/")
        if other or (origin is not None and urlsplit(origin).netloc.lower() != host.lower()):
            raise Problem(403, "requests from pages of other sites are refused; use the page of this server")
        if scope["path"].startswith("/api/") and scope["path"] != "/api/health" and self.settings.token is not None:
            shown = headers.get("authorization", "").removeprefix("Bearer ").strip()
            if not hmac.compare_digest(shown.encode(), self.settings.token.encode()):
                raise Problem(
                    401,
                    "expected the header 'Authorization: Bearer TOKEN' with the token that the server printed",
                    {"www-authenticate": "Bearer"},
                )
        length = headers.get("content-length", "0")
        limit = self._limit(scope)
        if re.fullmatch("[0-9]{1,18}", length) is None or int(length) > limit:
            raise too_large(limit)

    def _limit(self, scope: Any) -> int:
        """Bytes of a request: only forms hold files."""
        form = any(
            name.lower() == b"content-type" and value.lower().startswith(b"multipart/form-data")
            for name, value in scope["headers"]
        )
        return self.settings.max_upload if form else min(SMALL, self.settings.max_upload)

    def _limited(self, receive: Any, limit: int) -> Any:
        """What arrives, up to the limit: a body that says no length is counted."""
        received = 0

        async def limited() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise too_large(limit)
            return message

        return limited


def is_ours(host: str, settings: Settings) -> bool:
    """Whether a `Host` names this server. A number cannot be rebound, so a server with a token has all of them."""
    try:
        name = (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return False
    if name in settings.hosts:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return settings.token is not None


def too_large(limit: int) -> Problem:
    shown = f"{limit / MIB:.4g} MiB" if limit >= MIB else f"{limit // 1024} KiB"
    return Problem(413, f"expected a request of at most {shown}; send a smaller file, or see --max-upload")
