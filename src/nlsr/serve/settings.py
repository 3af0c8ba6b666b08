"""What whoever starts the server decides. Knows nothing of HTTP, and imports nothing heavy."""

from dataclasses import dataclass, field
from pathlib import Path

MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """How a server behaves, and what it refuses.

    Args:
        memory: budget of a computation in bytes; None is a quarter of the machine's.
        device: where networks run. engine: what computes, as `Upscaler` takes it.
        models: weight files that clients may use beside those inside the package and the downloaded ones: name -> file.
        max_upload: bytes of a request. max_pixels: of a picture. max_result_pixels: of a result.
        max_waiting: jobs that are not finished. max_jobs_per_client: jobs of one address, finished ones included.
        keep: seconds after which a finished job and its files are removed.
        token: what every request to the API has to show; None on a loopback address.
        hosts: names by which the server may be called, in lower case and without a port.
        folder: in which the private folders of servers lie; None is in the user's cache.
    """

    memory: int | None = None
    device: str = "cpu"
    engine: str = "torch"
    models: dict[str, Path] = field(default_factory=dict)
    max_upload: int = 128 * MIB
    max_pixels: int = 50_000_000
    max_result_pixels: int = 800_000_000
    max_waiting: int = 200
    max_jobs_per_client: int = 100
    keep: float = 3600
    token: str | None = None
    hosts: frozenset[str] = frozenset({"localhost", "127.0.0.1", "::1"})
    folder: Path | None = None
