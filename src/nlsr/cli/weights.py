"""nlsr weights: what weight files hold, ours from published ones, and the mean of several."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from nlsr.cli.settings import ModelSettings, model_settings
from nlsr.errors import CheckpointError, NlsrError, UsageError

app = typer.Typer(help="List, recognise, describe, convert and average weight files.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_files(as_json: AsJson = False) -> None:
    """Weights inside the package, and published ones with where to find them."""
    from nlsr.weights.catalogue import known_files

    rows = [dataclasses.asdict(known) for known in known_files()]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        digest = row["sha256"] if row["sha256"] == "unknown" else f"{row['sha256'][:12]}..."
        name, network, licence = f"{row['name']:18}", f"{row['network']:8}", f"{row['licence']:22}"
        print(f"{name} {network} x{row['scale']}  {licence} sha256 {digest:15} {row['source']}")


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="Name of packaged weights, or a weight file.")],
    settings: ModelSettings = None,
    as_json: AsJson = False,
) -> None:
    """Everything that is known of one weight file."""
    from nlsr.networks import ForeignNetwork, name_of
    from nlsr.weights import find, load
    from nlsr.weights.catalogue import recognised, sha256
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
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
) -> None:
    """Write the mean of the weights of several trainings that had one start."""
    from nlsr.weights import average as mean_of
    from nlsr.weights import find, load, save_network
    from nlsr.weights.checkpoint import read_card

    if output.exists() and not overwrite:
        raise UsageError(f"{output}: exists already; choose another name with -o, or --overwrite")
    network = mean_of([load(model) for model in models])
    cards = [read_card(find(model)) for model in models]
    save_network(output, network, card={"mean of": cards})
    print(f"{output}: {type(network).__name__} x{network.scale}, the mean of {len(models)}")


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A published weight file.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="[default: FILE.safetensors beside FILE]")
    ] = None,
    settings: ModelSettings = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
) -> None:
    """Write a published file as one of ours: safetensors that name their network and config."""
    from nlsr.weights import load, save_network
    from nlsr.weights.catalogue import sha256
    from nlsr.weights.checkpoint import is_ours, read_metadata

    if not file.is_file():
        found = "a folder" if file.is_dir() else "no such file"
        raise CheckpointError(f"{file}: expected a weight file, found {found}")
    if is_ours(read_metadata(file)):
        raise CheckpointError(f"{file}: is a file of nlsr already, with its config; nothing to convert")
    target = output or file.with_suffix(".safetensors")
    if target.exists() and (not overwrite or target.samefile(file)):
        raise UsageError(f"{target}: exists already; choose another name with -o, or --overwrite")
    network = load(file, **model_settings(settings))
    save_network(target, network, card={"converted from": file.name, "sha256": sha256(file)})
    print(f"{target}: {type(network).__name__} x{network.scale}, from {file}")


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
