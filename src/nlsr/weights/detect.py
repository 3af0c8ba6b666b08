"""From a published weight file to the network it holds: which one, of which sizes, with every tensor in its place."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nlsr.errors import CheckpointError, NlsrError
from nlsr.networks import NETWORKS, Network, build, configure
from nlsr.networks.parts import DIV2K_MEAN
from nlsr.renamed import translated
from nlsr.weights.checkpoint import mismatches, shorten
from nlsr.weights.published import COLOUR_SHIFTS, PUBLISHED, RELATIVES, Rules, Tensors

RGB_RANGES = (1.0, 255.0)
"""Values of images in the trainings of published files; 255 is what the code of EDSR does unless told otherwise."""

CLOSEST = 3
"""Networks that are named where a file is of none."""


@dataclass(frozen=True)
class Detected:
    """What names and shapes say of a published file."""

    network: str
    """Its name in `NETWORKS`."""
    sizes: dict[str, Any]
    """Fields of the config that the tensors determine."""
    unsaid: dict[str, Any]
    """The other fields, with their published values; None for the scale of PAN, whose x2 and x3 have equal tensors."""


class UnknownNetwork(CheckpointError):
    """A file holds no network that is built here."""


def detect(path: str | Path, tensors: Tensors) -> Detected:
    """The known network that a file holds.

    Raises: UnknownNetwork if most of its names are of no known network, or if what would say its sizes is not there.
    """
    if relative := _relative(tensors):
        raise UnknownNetwork(f"{path}: holds an {relative}; expected a weight file of {', '.join(PUBLISHED)}")
    shares = {network: _known_share(network, tensors) for network in PUBLISHED}
    network = max(shares, key=shares.__getitem__)
    if shares[network] <= 0.5:
        some = ", ".join(list(tensors)[:3])
        raise UnknownNetwork(
            f"{path}: expected a weight file of {', '.join(PUBLISHED)}; {_closest(shares)}; it begins with {some}"
        )
    try:
        sizes = PUBLISHED[network].sizes(tensors)
    except KeyError as error:
        raise UnknownNetwork(f"{path}: closest to {network}, but has no tensor {error}") from error
    except (ValueError, ZeroDivisionError, IndexError) as error:
        raise UnknownNetwork(f"{path}: closest to {network}, but its shapes contradict each other") from error
    fields = NETWORKS[network][0].__dataclass_fields__
    unsaid = {name: None if name == "scale" else field.default for name, field in fields.items() if name not in sizes}
    return Detected(network, sizes, unsaid)


def build_published(path: str | Path, tensors: Tensors, settings: dict[str, Any]) -> Network:
    """The network of a published file, in eval mode.

    Args:
        settings: values for what the tensors do not determine (chunk size, residual scale, PAN's scale 2 or 3), in
            place of the published ones.
    Raises: CheckpointError if the file is of no known network or does not fit it; every mismatch is named.
    """
    detected = detect(path, tensors)
    settings = translated(NETWORKS[detected.network][0].__name__, settings)
    _check_settings(path, detected, settings)
    try:
        config = configure(NETWORKS[detected.network][0], detected.sizes | settings)
        network = build(config)
    except NlsrError as error:
        raise CheckpointError(
            f"{path}: closest to {detected.network}, but no such network can be built: {error}"
        ) from error
    rules = PUBLISHED[detected.network].rules(tensors, config)
    renamed, unknown = _renamed(tensors, rules)
    for buffer, value in network.named_buffers():  # counters that published files do not have
        if buffer.endswith(".idle"):
            renamed[buffer] = value
    problems = [f"unexpected '{name}' {tuple(tensors[name].shape)}" for name in unknown]
    problems += mismatches(network, renamed, called=lambda name: _published_name(name, rules))
    if problems:
        raise CheckpointError(f"{path}: closest to {detected.network}, but does not fit: {shorten(problems)}")
    _check_clusters(path, renamed)
    unit_range = _in_unit_range(tensors, PUBLISHED[detected.network].ends, _rgb_range(path, tensors))
    network.load_state_dict(renamed | _renamed(unit_range, rules)[0])
    return network.eval()


def _relative(tensors: Tensors) -> str | None:
    """The network that a file holds of those whose names are almost ours."""
    for network, spellings in RELATIVES.items():
        for block, other in spellings:
            others = [name for name in tensors if not re.fullmatch(block, name)]
            if len(others) < len(tensors) and all(re.fullmatch(other, name) for name in others):
                return network
    return None


def _closest(shares: dict[str, float]) -> str:
    """Those that know most of a file's names, in words."""
    most = sorted((name for name in shares if shares[name] > 0), key=lambda name: -shares[name])[:CLOSEST]
    if not most:
        return "none of them knows any of its names"
    known = ", ".join(f"{name} ({shares[name]:.0%})" for name in most)
    return f"the closest, by how many of its names they know, are {known}"


def _known_share(network: str, tensors: Tensors) -> float:
    """How many of a file's names a network's rules know."""
    published, config_type = PUBLISHED[network], NETWORKS[network][0]
    try:
        config = config_type(**({"scale": 4} | published.sizes(tensors)))
    except (LookupError, ValueError, ZeroDivisionError):
        config = config_type(4)
    _, unknown = _renamed(tensors, published.rules(tensors, config))
    return 1 - len(unknown) / max(1, len(tensors))


def _renamed(tensors: Tensors, rules: Rules) -> tuple[Tensors, list[str]]:
    """Tensors under our names, by the first rule that matches the whole name; and the names that no rule knows."""
    renamed: Tensors = {}
    unknown: list[str] = []
    for name, tensor in tensors.items():
        for pattern, ours in rules:
            match = re.fullmatch(pattern, name)
            if match:
                if isinstance(ours, tuple):
                    parts = tensor.tensor_split(len(ours))
                    renamed |= {match.expand(each): part for each, part in zip(ours, parts, strict=True)}
                elif ours is not None:
                    renamed[match.expand(ours)] = tensor
                break
        else:
            unknown.append(name)
    return renamed, unknown


def _published_name(name: str, rules: Rules) -> str:
    """The published spelling of one of our names: the rules read backwards. For messages."""
    for pattern, replacement in rules:
        for ours in replacement if isinstance(replacement, tuple) else (replacement or "",):
            backwards, template = re.escape(ours), _OPTIONAL.sub("", pattern)
            for number, group in enumerate(_GROUP.finditer(pattern), 1):
                reference = rf"\\g<{group[1]}>" if group[1] else rf"\\{number}"
                backwards = backwards.replace(reference, f"(?P<g{number}>{group[2]})")
                template = template.replace(group[0], rf"\g<g{number}>", 1)
            match = re.fullmatch(backwards, name)
            if match:
                return match.expand(template.replace(r"\.", "."))
    return name


_GROUP, _OPTIONAL = re.compile(r"\((?:\?P<(\w+)>)?([^()?][^()]*)\)"), re.compile(r"\(\?:[^()]*\)\?")


def _check_settings(path: str | Path, detected: Detected, settings: dict[str, Any]) -> None:
    known = detected.sizes | detected.unsaid
    for name, value in settings.items():
        if name not in known:
            raise CheckpointError(
                f"{path}: {detected.network} has no setting '{name}'; it has {', '.join(sorted(known))}"
            )
        if name in detected.sizes and detected.sizes[name] != value:
            raise CheckpointError(f"{path}: the tensors say {name} = {detected.sizes[name]}, asked for was {value}")
    if (detected.sizes | settings).get("scale") is None:
        raise CheckpointError(
            f"{path}: a {detected.network} file at x2 or x3, which have equal tensors; say which: scale=2 or scale=3"
        )


def _check_clusters(path: str | Path, renamed: Tensors) -> None:
    """Raises: CheckpointError for clusters that never started: they would load and give wrong pictures."""
    if not all(bool(started) for name, started in renamed.items() if name.endswith(".initialised")):
        raise CheckpointError(f"{path}: its clusters were never started; the file was saved before any training")


def _rgb_range(path: str | Path, tensors: Tensors) -> float:
    """Up to which value images went in the training of a published file: the shifts by the mean colour say it.

    Raises: CheckpointError for another mean colour and for a standard deviation: they would load and give wrong
        pictures.
    """
    for name in (f"{shift}.weight" for shift in COLOUR_SHIFTS):
        if name in tensors and not torch.equal(tensors[name].float().flatten(), torch.eye(3).flatten()):
            raise CheckpointError(f"{path}: expected '{name}' to be the identity, got {tensors[name].tolist()}")
    shifts = {f"{name}.bias": sign * torch.tensor(DIV2K_MEAN) for name, sign in COLOUR_SHIFTS.items()}
    shifts = {name: shift for name, shift in shifts.items() if name in tensors}
    misfits = {
        rgb_range: [name for name, shift in shifts.items() if not _close(tensors[name], rgb_range * shift)]
        for rgb_range in RGB_RANGES
    }
    closest = min(RGB_RANGES, key=lambda rgb_range: len(misfits[rgb_range]))
    if misfits[closest]:
        name = misfits[closest][0]
        expected, got = _rounded(closest * shifts[name]), _rounded(tensors[name])
        raise CheckpointError(f"{path}: expected '{name}' {expected}, the mean colour of DIV2K, got {got}")
    return closest


def _in_unit_range(tensors: Tensors, ends: tuple[str, str] | None, rgb_range: float) -> Tensors:
    """First and last convolution for values in [0, 1], in float32, of a network that saw values up to `rgb_range`."""
    if ends is None or rgb_range == 1:
        return {}
    first, last = ends
    enlarged = {name: tensor.float() * rgb_range for name, tensor in tensors.items() if re.fullmatch(first, name)}
    return enlarged | {n: tensor.float() / rgb_range for n, tensor in tensors.items() if re.fullmatch(last, n)}


def _close(tensor: torch.Tensor, expected: torch.Tensor) -> bool:
    """As far as half precision allows."""
    return tensor.shape == expected.shape and torch.allclose(tensor.float(), expected, rtol=1e-3, atol=0)


def _rounded(tensor: torch.Tensor) -> list[float]:
    return [round(value, 4) for value in tensor.flatten().tolist()]
