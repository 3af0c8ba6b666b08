"""Fetching a known file over HTTP: only when asked, continued where it was cut, and kept only if it is the known one.

Proxies are those of the environment (`HTTPS_PROXY`, `NO_PROXY`).
"""

import errno
import http.client
import os
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nlsr.errors import CheckpointError
from nlsr.files import sha256
from nlsr.report import Report
from nlsr.weights.catalogue import KnownFile

TIMEOUT = 30
"""Seconds without a byte after which a server is given up."""
CHUNK = 2**16


def download(known: KnownFile, target: Path, *, report: Report | None = None) -> Path:
    """Fetch a file into its place; what an earlier call left of it is continued.

    Raises: CheckpointError, in one line, if the server cannot be reached or lacks the file, if the connection is cut or
        the disk is full (the same call then continues), and if what came is another file (nothing is kept).
    """
    # The name is one that `nlsr.files.is_unfinished` knows, and is the same in every call.
    part = target.with_name(f".{target.name}.{known.sha256[:8]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        have = part.stat().st_size if part.exists() else 0
    except OSError as error:
        raise CheckpointError(f"{target.parent}: cannot be written ({error.strerror}); set NLSR_CACHE") from error
    if not (have and sha256(part) == known.sha256):
        _fetch(known.address, part, have, report)
    if (got := sha256(part)) != known.sha256:
        part.unlink()
        raise CheckpointError(
            f"{known.address}: expected a file of SHA-256 {known.sha256}, got {got}; it was refused, nothing is kept"
        )
    os.replace(part, target)
    return target


def _fetch(address: str, part: Path, have: int, report: Report | None) -> None:
    """All of a file behind the bytes that are there; from its beginning if the server cannot continue."""
    headers = {"User-Agent": f"nlsr/{version('nlsr')}"} | ({"Range": f"bytes={have}-"} if have else {})
    opener = urllib.request.build_opener()  # `urlopen` would keep to the proxies of its first call
    try:
        with opener.open(urllib.request.Request(address, headers=headers), timeout=TIMEOUT) as reply:
            if reply.status != http.client.PARTIAL_CONTENT:
                have = 0
            length = reply.headers.get("Content-Length")
            total = have + int(length) if length and length.isdigit() else 0
            have = _copy(reply, part, have, total, report)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:  # more is there than the server has
            part.unlink()
            _fetch(address, part, 0, report)
            return
        raise CheckpointError(f"{address}: the server answers {error.code} {error.reason}; try again later") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise CheckpointError(
            f"{address}: cannot be reached ({reason}); is there a network, or a proxy to name in HTTPS_PROXY?"
        ) from error
    if total and have < total:
        raise _cut(address, have, total)


def _copy(reply: Any, part: Path, have: int, total: int, report: Report | None) -> int:
    """Append what comes; returns how many bytes are there. Raises: CheckpointError if it stops coming or cannot be
    written."""
    try:
        with part.open("ab" if have else "wb") as file:
            while chunk := _next(reply, have, total):
                file.write(chunk)
                have += len(chunk)
                if report:
                    report(have, max(total, have))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full; free some space" if full else f"cannot be written ({error.strerror})"
        raise CheckpointError(f"{part.parent}: {what}, and the same command continues the download") from error
    return have


def _next(reply: Any, have: int, total: int) -> bytes:
    try:
        return bytes(reply.read(CHUNK))
    except (OSError, http.client.HTTPException) as error:
        raise _cut(reply.url, have, total) from error


def _cut(address: str, have: int, total: int) -> CheckpointError:
    whole = f" of {total}" if total else ""
    return CheckpointError(f"{address}: the connection was cut after {have}{whole} bytes; the same command continues")
