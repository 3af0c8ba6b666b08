"""What several commands take: key=value settings, values as in TOML, and a device."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nlsr.errors import TargetError, UsageError
from nlsr.imports import import_modules
from nlsr.settings import parse_value

if TYPE_CHECKING:
    import torch

ModelSettings = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value, for what a published weight file does not determine, like scale=2."),
]


Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        callback=lambda names: import_modules(names or []) or names,
        help="Python module that registers operators or networks of your own; may be repeated.",
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...")]
Memory = Annotated[str | None, typer.Option(help="Memory budget, like 2GiB.", show_default="1/4 of the machine's")]
Model = Annotated[str, typer.Option("-m", "--model", help="Name of packaged weights, or a weight file.")]
Engine = Annotated[
    str,
    typer.Option(help="What computes: torch, onnxruntime, openvino, or 'auto' by what `nlsr benchmark engines` found."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _threads(number: int | None) -> int | None:
    """Let torch use so many. Too many are refused here: the thread library ends the process when the system has no more
    of them."""
    most = max(64, 4 * (os.cpu_count() or 1))
    if number is not None and not 1 <= number <= most:
        raise UsageError(f"--threads {number}: expected 1 to {most} on this machine")
    if number is not None:
        import torch

        torch.set_num_threads(number)
    return number


def threads_option(use: str = "Processor threads.") -> Any:
    """The option --threads; without it torch decides."""
    return typer.Option("--threads", callback=_threads, help=use, show_default="one for each core")


Threads = Annotated[int | None, threads_option()]


def check_output(path: Path, *, overwrite: bool) -> None:
    """To be asked before a long computation. Raises: TargetError if no file can be written there."""
    if path.is_dir():
        raise TargetError(f"{path}: expected a file name, got a folder; choose another name")
    if not path.parent.is_dir():
        raise TargetError(f"{path}: its folder does not exist; create it")
    if os.path.lexists(path) and not overwrite:
        raise TargetError(f"{path}: exists already; choose another name or allow it with --overwrite")


def model_settings(words: list[str] | None) -> dict[str, Any]:
    """Raises: UsageError for what is not key=value."""
    settings = {}
    for word in words or []:
        key, equals, text = word.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--set {word}: expected key=value, like scale=2")
        settings[key] = parse_value(text)
    return settings


def device_named(text: str) -> "torch.device":
    """Raises: UsageError for a device that is not there."""
    from nlsr.devices import device_named as named

    return named(text)
