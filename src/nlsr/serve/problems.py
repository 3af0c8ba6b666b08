"""Errors as problem details (RFC 9457), with the messages of the command."""

import errno
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from nlsr.errors import NlsrError, UsageError

MEDIA_TYPE = "application/problem+json"
MISTAKE = "this is a mistake of nlsr, please report it"


class Problem(HTTPException):
    """A refusal: what was expected, what came, what to do."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)


def details(status: int, detail: str) -> dict[str, Any]:
    """The members of a problem."""
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}


def response(status: int, detail: str, headers: Any = None) -> JSONResponse:
    return JSONResponse(details(status, detail), status, headers=headers, media_type=MEDIA_TYPE)


def status_of(error: BaseException) -> int:
    """400 for what was asked wrongly, 422 for a picture that cannot be used, 507 for a full disk, 500 for mistakes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return 507
        cause = cause.__cause__
    if isinstance(error, HTTPException):
        return error.status_code
    if isinstance(error, UsageError):
        return 400
    return 422 if isinstance(error, NlsrError) else 500


def told(error: BaseException) -> str:
    """In one line."""
    status = status_of(error)
    if status == 507:
        return "the disk of the server is full; delete finished jobs, or wait until they are removed"
    if status == 500:
        return f"{type(error).__name__}: {MISTAKE}"
    return " ".join(str(error.detail if isinstance(error, HTTPException) else error).split())


async def handle(_: Request, error: Exception) -> JSONResponse:
    """`answer`, as a handler of errors."""
    return answer(error)


def answer(error: Exception) -> JSONResponse:
    """What is answered for an error of any kind."""
    if isinstance(error, RequestValidationError):
        return response(422, "; ".join(_invalid(each) for each in error.errors()))
    return response(status_of(error), told(error), getattr(error, "headers", None))


def _invalid(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"] if part not in ("body", "query", "path"))
    came = error.get("input")
    shown = f", got {str(came)[:80]!r}" if isinstance(came, str | int | float) else ""
    return f"{name[:80] or 'the request'}: {error['msg'][:1].lower()}{error['msg'][1:]}{shown}"
