"""Files on object storage and elsewhere, at any address that fsspec knows: `s3://`, `gs://`, `hf://` and more.

Nothing is asked of a network before an address is given. Every function raises StorageError if no file of that
storage can be had, beside what it states. Knows nothing of pictures.
"""

import contextlib
import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlsr.errors import ImageError, NlsrError, StorageError, TargetError, UsageError
from nlsr.extras import installing_packages

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "az": "adlfs", "abfs": "adlfs"}
"""What is installed for a kind of address, where fsspec alone does not do."""

_MODIFIED = ("LastModified", "last_modified", "updated", "mtime")
_NO_ENTRY = {
    "401",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
"""What a storage answers to credentials that it does not take."""
_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


@dataclass(frozen=True)
class Entry:
    """A file that is there.

    Args:
        etag: what the storage calls this content; empty where it has no such name. modified: when, as it says.
    """

    address: str
    size: int
    etag: str
    modified: str


def is_address(word: str) -> bool:
    """Whether a word names something elsewhere, and no file of this machine."""
    return _ADDRESS.match(word) is not None


def entries(address: str) -> list[Entry]:
    """The file of this address, or all below if it is a folder, in the order of their names.

    Raises: UsageError if nothing is there or it cannot be asked.
    """
    with _explained(address, UsageError):
        system, path = _opened(address)
        system.invalidate_cache()
        found = system.find(path, detail=True)
        if not found and not system.exists(path):
            raise FileNotFoundError
        start = address[: len(address) - len(path)] if address.endswith(path) else address.split("://")[0] + "://"
        return [_entry(start + name, about) for name, about in sorted(found.items()) if about["type"] == "file"]


def entry(address: str) -> Entry | None:
    """The file of this address; nothing if there is none. Raises: ImageError if it cannot be asked."""
    with _explained(address, ImageError):
        system, path = _opened(address)
        try:
            about = system.info(path)
        except FileNotFoundError:
            return None
        return _entry(address, about) if about["type"] == "file" else None


def is_folder(address: str) -> bool:
    """Whether files lie below. Raises: UsageError if it cannot be asked."""
    with _explained(address, UsageError):
        system, path = _opened(address)
        return system.isdir(path)


def fetch(address: str, path: Path) -> None:
    """Copy a file to this machine. Raises: ImageError."""
    with _explained(address, ImageError):
        system, source = _opened(address)
        path.parent.mkdir(parents=True, exist_ok=True)
        system.get_file(source, str(path))


def send(path: Path, address: str) -> None:
    """Copy a file of this machine to an address, where it is whole or not at all. Raises: TargetError."""
    with _explained(address, TargetError):
        system, target = _opened(address)
        system.put_file(str(path), target)


def read_bytes(address: str) -> bytes:
    """Raises: ImageError."""
    with _explained(address, ImageError):
        system, path = _opened(address)
        return system.cat_file(path)


def write_bytes(address: str, content: bytes) -> None:
    """Raises: TargetError."""
    with _explained(address, TargetError):
        system, path = _opened(address)
        system.pipe_file(path, content)


def create(address: str, content: bytes) -> bool:
    """Make a file that is not there yet; whether that was so, where the storage can tell. Raises: TargetError."""
    with _explained(address, TargetError):
        system, path = _opened(address)
        try:
            system.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        return True


def remove(address: str) -> None:
    """Raises: TargetError."""
    with _explained(address, TargetError):
        system, path = _opened(address)
        system.rm_file(path)


def _opened(address: str) -> tuple[Any, str]:
    import fsspec

    kind = address.split("://")[0]
    try:
        return fsspec.core.url_to_fs(address)
    except ImportError as error:
        how = f"install it with: {installing_packages(PACKAGES[kind])}" if kind in PACKAGES else _reason(error)
        raise UsageError(f"{address}: {kind}:// needs another package; {how}") from error
    except ValueError as error:
        known = ", ".join(f"{name}://" for name in ("s3", "gs", "hf"))
        raise UsageError(f"{address}: expected an address like {known}, got {kind}:// ({error})") from error


def _entry(address: str, about: dict[str, Any]) -> Entry:
    modified = next((about[name] for name in _MODIFIED if name in about), "")
    etag = next((about[name] for name in ("ETag", "etag", "blob_id") if about.get(name)), "")
    return Entry(address, about["size"] or 0, str(etag).strip('"'), str(modified))


@contextlib.contextmanager
def _explained(address: str, kind: type[ImageError] | type[UsageError]) -> Iterator[None]:
    """What storage raises, in one line: a StorageError if others would fail as this file does, else of this kind."""
    try:
        yield
    except NlsrError:
        raise
    except FileNotFoundError as error:
        if "bucket" in str(error).lower():
            raise StorageError(f"{address}: the bucket does not exist; check its name, or make it") from error
        raise kind(f"{address}: expected a file or folder, but there is none; check the address") from error
    except Exception as error:  # every storage has its own
        name, reason = type(error).__name__, _reason(error)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise kind(f"{address}: does not fit on this machine ({error.strerror}); free some space") from error
        if _code(error) in _NO_ENTRY or any(word in name for word in ("Credentials", "Token", "RefreshError")):
            raise StorageError(
                f"{address}: credentials are missing or no longer valid ({reason}); give them as the storage "
                "expects, like AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://"
            ) from error
        if isinstance(error, PermissionError):
            raise kind(
                f"{address}: not allowed ({reason}); ask for the right to it, or take other credentials"
            ) from error
        if isinstance(error, ConnectionError | TimeoutError) or "Connect" in name or "Timeout" in name:
            raise StorageError(f"{address}: cannot be reached ({name}: {reason}); check address and network") from error
        raise kind(f"{address}: the storage cannot do it ({name}: {reason}); check the address") from error


def _code(error: Exception) -> str:
    """What the storage answered, as it names it or as a number of HTTP; nothing where libraries do not tell."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            return str(response["Error"]["Code"])
        for code in (getattr(each, "code", None), getattr(each, "status", None)):
            if code is not None:
                return str(code)
    return ""


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
