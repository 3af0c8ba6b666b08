"""Our weight files: safetensors that hold the network's name, config, scale and training card beside the tensors.

Nothing runs on load. A foreign file goes to `published.py`, which needs no more than names and shapes.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from warnings import warn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nlsr import networks
from nlsr.attention import operator_name
from nlsr.errors import CheckpointError, ModelNotFoundError, NlsrError, NlsrWarning, UsageError
from nlsr.files import replacing
from nlsr.images.formats.decode import sniff
from nlsr.networks import NETWORKS, ForeignNetwork, Network, configure, name_of

FORMAT = "nlsr-1"
WRAPPERS = ("params_ema", "params-ema", "params", "state_dict", "model_state_dict", "model", "net")
"""Names under which trainers keep a state dict inside a checkpoint."""
AVERAGE_AND_LAST = ("params_ema", "params")
"""What BasicSR keeps of one training: the moving average of the weights, which published results are of, and the last
ones."""


def save_network(path: str | Path, network: Network, *, card: dict[str, Any] | None = None, half: bool = False) -> None:
    """Write a network to a safetensors file, under a temporary name first, so that no half file is ever seen.

    Args:
        card: what should be known about the training: data, steps, hours, machine, scores. JSON values.
        half: store the numbers in float16, in half of the space. They are float32 again when loaded.
    Raises: CheckpointError if the file cannot be written, UsageError for a module that is no network of nlsr, and for
        operators that have no name or are not those that the config says.
    """
    kind = name_of(network)
    if isinstance(network, ForeignNetwork):
        raise UsageError(f"a network of {kind} is not built by nlsr and cannot be saved; keep its own file")
    check_operators(network)
    metadata = {
        "format": FORMAT,
        "network": kind,
        "config": json.dumps(dataclasses.asdict(network.config), sort_keys=True),
        "scale": str(network.scale),
        "joined_patches": str(network.joined_patches),
        "card": json.dumps(card or {}, sort_keys=True),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    if half:
        tensors = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    write_atomically(Path(path), save(tensors, metadata))


def check_operators(network: Network) -> None:
    """Raises: UsageError if a network has operators by which nobody could build it again."""
    said = getattr(network.config, "operator", None)
    for operator in network.operators():
        name = operator_name(operator)
        if said is not None and name != said:
            raise UsageError(f"the config says operator '{said}', but the network has '{name}'; build it with that")


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Raises: CheckpointError if the file cannot be written; what was there before is then untouched."""
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror})") from error


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file or of a pickled state dict (read without running code).

    Raises: CheckpointError if the file is missing or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise ModelNotFoundError(f"{path}: expected a weight file, found {what}")
    try:
        with path.open("rb") as file:
            head = file.read(64)
        if head[8:9] == b"{":
            with safe_open(path, framework="pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path}: a damaged safetensors file ({error}); get it again") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if format := sniff(head):
        raise ModelNotFoundError(f"{path}: expected a weight file, got a picture ({format}); give pictures as inputs")
    return _read_pickle(path), {}


def read_metadata(path: str | Path) -> dict[str, str]:
    """What a safetensors file says of itself, without reading its tensors; nothing for other files."""
    try:
        with safe_open(path, framework="pt") as opened:
            return dict(opened.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def read_card(path: str | Path) -> dict[str, Any]:
    """What one of our files says of its training; nothing for other files.

    Raises: CheckpointError if that is no JSON table.
    """
    try:
        return dict(json.loads(read_metadata(path).get("card", "{}")))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the training card inside is damaged ({error}); get the file again") from error


def is_ours(metadata: dict[str, str]) -> bool:
    """Whether a file with this metadata was written by `save_network`, of this version or another."""
    return metadata.get("format", "").startswith("nlsr")


def build(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Network:
    """The network of one of our files, in eval mode.

    Raises: CheckpointError if its metadata or tensors do not fit; every mismatch is named.
    """
    return fill(path, _untrained(path, metadata), tensors)


def attentions(path: str | Path) -> list[str] | None:
    """What matches in the network of one of our files, by name and in order, found without reading its tensors.

    Empty for a network without attention, None for a file that does not say what it holds.
    """
    if not is_ours(read_metadata(path)):
        return None
    try:
        return [operator_name(operator) for operator in untrained(path).operators()]
    except CheckpointError:
        return None


def untrained(path: str | Path) -> Network:
    """The network of one of our files on the device `meta`: no tensor is read. Raises: CheckpointError, as `build`."""
    with torch.device("meta"):
        return _untrained(path, read_metadata(path))


def _untrained(path: str | Path, metadata: dict[str, str]) -> Network:
    """The network that the metadata of one of our files describes. Raises: CheckpointError, as `build`."""
    name = metadata.get("network", "")
    if metadata["format"] != FORMAT or name not in NETWORKS:
        raise CheckpointError(
            f"{path}: expected format {FORMAT} and a network of {', '.join(NETWORKS)}; "
            f"got {metadata['format']} and '{name}'; a newer nlsr may know it"
        )
    try:
        network = networks.build(configure(NETWORKS[name][0], dict(json.loads(metadata["config"]))))
        network.joined_patches = int(metadata.get("joined_patches", 1))
    except (TypeError, ValueError, KeyError, NlsrError) as error:
        raise CheckpointError(f"{path}: the config inside does not fit {name} ({error})") from error
    return network


def fill(path: str | Path, network: Network, tensors: dict[str, Tensor]) -> Network:
    """Copy tensors into a network, strictly. Returns it in eval mode.

    Raises: CheckpointError that lists missing, unexpected and misshapen tensors.
    """
    problems = mismatches(network, tensors)
    if problems:
        raise CheckpointError(f"{path}: does not fit {name_of(network)}: {shorten(problems)}")
    network.load_state_dict(tensors)
    return network.eval()


def mismatches(
    network: Network, tensors: dict[str, Tensor], *, called: Callable[[str], str] = lambda name: name
) -> list[str]:
    """What is missing, unexpected or misshapen in a state dict for a network.

    Args:
        called: how a tensor of the network is called in the message.
    """
    own = network.state_dict()
    problems = [f"missing '{called(name)}' {_shape(own[name])}" for name in own if name not in tensors]
    problems += [f"unexpected '{name}' {_shape(tensors[name])}" for name in tensors if name not in own]
    return problems + [
        f"'{called(name)}' is {_shape(tensors[name])}, expected {_shape(own[name])}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]


def shorten(problems: list[str], limit: int = 6) -> str:
    """Up to `limit` problems in one line, and how many more there are."""
    more = f"; and {len(problems) - limit} more" if len(problems) > limit else ""
    return "; ".join(problems[:limit]) + more


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling rubbish can fail in any way; the first line says how
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "weights_only" in str(error).lower() or "Unsupported" in str(error):
            reason = "it holds more than tensors, and loading would run code"
        raise CheckpointError(f"{path}: expected safetensors or a pickled state dict of tensors; {reason}") from error
    return _unwrap(path, content)


def _unwrap(path: Path, content: Any) -> dict[str, Tensor]:
    """The state dict inside what trainers save around it, without the prefix that data-parallel training adds."""
    if isinstance(content, dict):
        inside = [name for name in WRAPPERS if isinstance(content.get(name), dict)]
        if inside == list(AVERAGE_AND_LAST):
            chosen, other = inside
            inside = [chosen]
            warn(f"{path}: holds {other} and {chosen}; the average, {chosen}, is taken", NlsrWarning, stacklevel=2)
        if len(inside) > 1:
            raise CheckpointError(
                f"{path}: holds several state dicts ({', '.join(inside)}); save the one you want alone"
            )
        content = content[inside[0]] if inside else content
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path}: expected a state dict of tensors, got {type(content).__name__}")
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): tensor for name, tensor in content.items()}
    return dict(content)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
