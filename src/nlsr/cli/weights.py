"""nlsr weights: what weight files hold, ours from published ones, and the mean of several."""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nlsr.cli.settings import AsJson, Imports, ModelSettings, Overwrite, check_output, model_settings
from nlsr.errors import CheckpointError, ModelNotFoundError, NlsrError, UsageError

if TYPE_CHECKING:
    from nlsr.weights.catalogue import KnownFile

app = typer.Typer(help="List, download, recognise, describe, convert and average weight files.", no_args_is_help=True)


@app.command("list")
def list_files(as_json: AsJson = False) -> None:
    """Weights inside the package, and published ones with where to find them.

    The first column is what --model takes. HERE says where the file is: in the package, downloaded, or to be had with
    'nlsr weights get'.
    """
    from nlsr.tables import aligned
    from nlsr.weights.catalogue import IN_PACKAGE, available, known_files

    known, here = known_files(), available()
    if as_json:
        rows = [{"model": each.model} | dataclasses.asdict(each) | {"here": each.model in here} for each in known]
        print(json.dumps(rows, indent=1))
        return
    table = [("MODEL", "NETWORK", "SCALE", "FILE", "HERE", "LICENCE", "SHA-256", "SOURCE")]
    for each in known:
        where = "package" if each.source == IN_PACKAGE else "downloaded" if each.model in here else ""
        where = where or ("get" if each.address else "no")
        digest = each.sha256 if each.sha256 == "unknown" else each.sha256[:12]
        licence = each.licence.removeprefix("unknown (").removesuffix(")")
        table.append((each.model, each.network, f"x{each.scale}", each.name, where, licence, digest, each.source))
    print("\n".join(aligned(table)))


@app.command()
def get(
    names: Annotated[list[str], typer.Argument(help="Names in the first column of 'nlsr weights list', or families.")],
    yes: Annotated[bool, typer.Option("--yes", help="Agree to the licences and terms that are shown.")] = False,
) -> None:
    """Download published weights from their authors' addresses; then --model takes their names.

    The licence and the terms of the training images are shown first and asked for. A file lies in the user's cache
    (NLSR_CACHE, if that is set), and only if its SHA-256 is the known one.
    """
    from nlsr.cli.progress import Counter
    from nlsr.weights.catalogue import place
    from nlsr.weights.download import download

    wanted = [known for known in _downloads(names) if not place(known).is_file()]
    for known in _downloads(names):
        if known not in wanted:
            print(f"{known.model}: is here already, {place(known)}")
    for known in wanted:
        print(f"{known.model}: {known.address}\n  licence: {known.licence}\n  trained on: {known.trained_on}")
    if wanted and not yes:
        _ask(len(wanted))
    for known in wanted:
        with Counter(known.model) as counter:
            path = download(known, place(known), report=counter)
        print(f"{known.model}: {path}, SHA-256 as known")


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="Name of packaged weights, or a weight file.")],
    settings: ModelSettings = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Everything that is known of one weight file."""
    from nlsr.files import sha256
    from nlsr.networks import ForeignNetwork, name_of
    from nlsr.weights import find, load
    from nlsr.weights.catalogue import recognised
    from nlsr.weights.checkpoint import is_ours, read_card, read_metadata

    path = find(model)
    network = load(path, **model_settings(settings))
    metadata, digest = read_metadata(path), sha256(path)
    known = recognised(digest)
    facts: dict[str, Any] = {
        "file": str(path),
        "kind": "spandrel" if isinstance(network, ForeignNetwork) else "nlsr" if is_ours(metadata) else "published",
        "network": name_of(network),
        "scale": network.scale,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "sha256": digest,
        "licence": known.licence if known else "unknown",
        "source": known.source if known else "unknown",
        "config": dataclasses.asdict(network.config),
        "card": read_card(path),
    }
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        for line, (key, inner) in enumerate(_leaves(value)):
            print(f"{'' if line else name:12}{key + ': ' if key else ''}{_shown(inner)}")


@app.command()
def detect(
    files: Annotated[list[Path], typer.Argument(help="Weight files.")],
    as_json: AsJson = False,
) -> None:
    """Which network each file holds, by the names and shapes of its tensors."""
    from nlsr.networks import name_of
    from nlsr.weights.checkpoint import build, is_ours, read_tensors

    failed, found = False, []
    for path in files:
        try:
            tensors, metadata = read_tensors(path)
            if is_ours(metadata):
                network = build(path, tensors, metadata)
                sizes = dataclasses.asdict(network.config)
                facts: dict[str, Any] = {"network": name_of(network), "sizes": sizes, "unsaid": {}}
            else:
                facts = _detected(path, tensors)
        except NlsrError as error:
            print(f"weights detect: {error}", file=sys.stderr)
            failed = True
            continue
        found.append({"file": str(path)} | facts)
        if not as_json:
            print(f"{path}: {facts['network']}; {_listed(facts['sizes'])}")
            if facts["unsaid"]:
                print(f"  not in the file, published values unless --set: {_listed(facts['unsaid'])}")
    if as_json:
        print(json.dumps(found, indent=1))
    if failed:
        raise typer.Exit(1)


@app.command()
def average(
    models: Annotated[list[str], typer.Argument(help="Names of packaged weights, or weight files, of one network.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    imports: Imports = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the mean of the weights of several trainings that had one start."""
    from nlsr.weights import average as mean_of
    from nlsr.weights import find, load, save_network
    from nlsr.weights.checkpoint import read_card

    check_output(output, overwrite=overwrite)
    network = mean_of([load(model) for model in models])
    cards = [read_card(find(model)) for model in models]
    save_network(output, network, card={"mean of": cards})
    print(f"{output}: {type(network).__name__} x{network.scale}, the mean of {len(models)}")


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A published weight file; with --half also one of ours.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The file to write.", show_default="FILE.safetensors beside FILE"),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store float16, in half of the space.")] = False,
    settings: ModelSettings = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a published file as one of ours: safetensors that name their network and config. --half also takes ours."""
    from nlsr.files import sha256
    from nlsr.weights import load, save_network
    from nlsr.weights.checkpoint import is_ours, read_card, read_metadata

    if not file.is_file():
        found = "a folder" if file.is_dir() else "no such file"
        raise ModelNotFoundError(f"{file}: expected a weight file, found {found}")
    ours = is_ours(read_metadata(file))
    if ours and not half:
        raise CheckpointError(f"{file}: is a file of nlsr already, with its config; nothing to convert without --half")
    target = output or file.with_suffix(".safetensors")
    check_output(target, overwrite=overwrite and os.path.realpath(target) != os.path.realpath(file))
    network = load(file, **model_settings(settings))
    card = read_card(file) if ours else {"converted from": file.name, "sha256": sha256(file)}
    save_network(target, network, card=card, half=half)
    print(f"{target}: {type(network).__name__} x{network.scale}, from {file}")


def _downloads(names: list[str]) -> "list[KnownFile]":
    """Raises: UsageError for a name that cannot be downloaded."""
    from nlsr.weights.catalogue import downloads

    known = downloads()
    found: dict[str, KnownFile] = {}
    for name in names:
        members = [each for each in known if name in (each, each.rpartition("-x")[0])]
        if not members:
            raise UsageError(f"{name}: expected one of {', '.join(known)}")
        found |= {each: known[each] for each in members}
    return list(found.values())


def _ask(number: int) -> None:
    """Raises: UsageError if nobody can be asked, Exit with 1 if the answer is no."""
    what = "it" if number == 1 else f"these {number}"
    try:
        agreed = typer.confirm(f"Download {what} under these terms?", err=True)
    except typer.Abort:
        if sys.stdin.isatty():
            raise
        print(file=sys.stderr)
        raise UsageError("nobody answers; agree to the licence and the terms above with --yes") from None
    if not agreed:
        print("weights get: nothing was downloaded", file=sys.stderr)
        raise typer.Exit(1)


def _detected(path: Path, tensors: dict[str, Any]) -> dict[str, Any]:
    """What a file that is not ours holds, as its authors published it or as spandrel knows it."""
    from nlsr.networks import name_of
    from nlsr.weights import load
    from nlsr.weights.detect import UnknownNetwork
    from nlsr.weights.detect import detect as detect_published

    try:
        return dataclasses.asdict(detect_published(path, tensors))
    except UnknownNetwork:
        network = load(path)
    return {"network": name_of(network), "sizes": dataclasses.asdict(network.config), "unsaid": {}}


def _listed(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name}={_shown(value)}" for name, value in facts.items())


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """What is inside tables and lists of tables, by dotted names."""
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        inner = list(enumerate(value, start=1))
    else:
        yield key, value
        return
    for name, each in inner:
        yield from _leaves(each, f"{key}.{name}" if key else str(name))


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
