"""nlsr serve: the page and the HTTP API."""

import secrets
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from nlsr.cli.settings import Device, Engine, Imports, Memory, Threads
from nlsr.errors import UsageError


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; any but this machine's own needs a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 lets the system choose.")] = 8000,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    token: Annotated[
        str | None,
        typer.Option(
            help="What requests must show, 16 letters or more.",
            show_default="made and printed unless HOST is this machine's own",
            envvar="NLSR_TOKEN",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Another name by which the server is called.")
    ] = None,
    models: Annotated[
        list[Path] | None,
        typer.Option("-m", "--model", help="A weight file that clients may use, by its name without ending."),
    ] = None,
    imports: Imports = None,
    memory: Memory = None,
    device: Device = "cpu",
    engine: Engine = "torch",
    threads: Threads = None,
    max_upload: Annotated[int, typer.Option(min=1, metavar="MIB", help="Larger requests are refused.")] = 128,
    max_pixels: Annotated[int, typer.Option(min=1, help="Larger pictures are refused.")] = 50_000_000,
    max_waiting: Annotated[int, typer.Option(min=1, help="Jobs that may wait.")] = 200,
    max_jobs: Annotated[int, typer.Option(min=1, help="Jobs that one address may have.")] = 100,
    keep: Annotated[float, typer.Option(min=0.01, metavar="MINUTES", help="How long results are kept.")] = 60,
) -> None:
    """A page to enlarge and compare pictures and to see where a pixel comes from, and an HTTP API, on this machine."""
    from nlsr.extras import require

    for module in ("fastapi", "uvicorn", "python_multipart"):
        require(module, extra="serve")
    from nlsr.serve.running import run
    from nlsr.serve.settings import MIB, Settings

    local = _is_local(host)
    if token is not None and len(token) < 16:
        raise UsageError(f"--token: expected 16 letters or more, got {len(token)}")
    names = {"localhost", "127.0.0.1", "::1", host.lower(), *(name.lower() for name in allow_host or [])}
    if not local:
        names |= {socket.gethostname().lower()}
    settings = Settings(
        memory=_bytes(memory),
        device=device,
        engine=_available(engine, device),
        models=_offered(models or []),
        max_upload=max_upload * MIB,
        max_pixels=max_pixels,
        max_waiting=max_waiting,
        max_jobs_per_client=max_jobs,
        keep=60 * keep,
        token=token or (None if local else secrets.token_urlsafe(24)),
        hosts=frozenset(names),
    )
    run(settings, host=host, port=port, open_page=open_page, say=_say)


def _say(address: str) -> None:
    print(f"nlsr is at {address} (stop it with ctrl-C)", flush=True)


def _is_local(host: str) -> bool:
    try:
        return host.lower() == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _bytes(memory: str | None) -> int | None:
    if memory is None:
        return None
    from nlsr.memory import parse_size

    return parse_size(memory)


def _available(engine: str, device: str) -> str:
    """Raises: UsageError for an engine that is not there."""
    if engine not in ("torch", "auto"):
        from nlsr.devices import device_named
        from nlsr.upscale.engine import engine_named

        engine_named(engine, device_named(device))
    return engine


def _offered(models: list[Path]) -> dict[str, Path]:
    """Raises: UsageError for a file that is missing and for two of one name."""
    offered: dict[str, Path] = {}
    for path in models:
        if not path.is_file():
            raise UsageError(f"--model {path}: expected a weight file, found no such file")
        if path.stem in offered:
            raise UsageError(f"--model {path}: there is another file of this name; rename one")
        offered[path.stem] = path.resolve()
    return offered
