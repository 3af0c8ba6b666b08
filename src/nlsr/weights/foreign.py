"""Files of networks that spandrel knows, if that library is installed.

It gets tensors that were read here without running code, and says scale, channels, sizes and precisions. What it does
not say, the memory that a network needs, is measured once on two small images and remembered by the file's hash.
"""

import contextlib
import json
import math
import re
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nlsr.cache import cache_folder
from nlsr.errors import CheckpointError, ShapeError, UsageError
from nlsr.extras import installing, installing_packages
from nlsr.files import replacing, sha256
from nlsr.images.formats.quiet import quiet
from nlsr.live_memory import bytes_per_pixel
from nlsr.memory import out_of_memory
from nlsr.networks.foreign import ForeignConfig, ForeignNetwork

OLDEST = (0, 4)
"""The first version of spandrel that says all that is asked of it here."""
MEASURED_SIDES = (64, 96)
"""Sides of the images on which memory is measured, in pixels; more where a network needs it."""
UNSEEN = 1.15
"""Memory against what tensors take: libraries below torch lay things out for themselves. Measured with SPAN, which took
3 % more than was counted, in tiles."""
SMALLEST_TILE = 64
"""A network that pads its input pads tiles of this side by most."""


def is_installed() -> bool:
    return find_spec("spandrel") is not None


def build_foreign(path: Path, tensors: dict[str, Tensor]) -> ForeignNetwork | None:
    """The network of a file by spandrel, in eval mode; None if spandrel does not know it.

    Raises: UsageError if spandrel is too old or cannot be imported, CheckpointError if it knows the file and cannot
        build or run it, or if the network does something else than restore pictures.
    """
    spandrel = import_spandrel()
    try:
        with quiet:
            descriptor = spandrel.ModelLoader().load_from_state_dict(dict(tensors))
    except spandrel.UnsupportedModelError:
        return None
    except Exception as error:  # whatever a foreign library raises for a file that it misunderstood
        raise CheckpointError(f"{path}: spandrel cannot build its network ({_in_one_line(error)})") from error
    name = descriptor.architecture.name
    if not isinstance(descriptor, spandrel.ImageModelDescriptor) or descriptor.purpose == "FaceSR":
        purpose = {"FaceSR": "restores cut-out faces"}.get(descriptor.purpose, "fills holes of pictures")
        raise CheckpointError(f"{path}: holds {name}, which {purpose}; expected one that enlarges or restores pictures")
    halves = {"bf16": descriptor.supports_bfloat16, "fp16": descriptor.supports_half}
    unmeasured = ForeignConfig(
        scale=descriptor.scale,
        architecture=name,
        input_channels=descriptor.input_channels,
        output_channels=descriptor.output_channels,
        bytes_per_pixel=1,
        half_precisions=tuple(name for name, supported in halves.items() if supported),
    )
    module, compute = descriptor.eval().float().model, _Compute(path, descriptor)
    try:
        network = ForeignNetwork(unmeasured, module, compute)
    except ShapeError as error:
        raise CheckpointError(f"{path}: {error}") from error
    need = _remembered(path)
    if need is None:
        need = _measured(network, descriptor.size_requirements)
        _remember(path, need)
    return ForeignNetwork(replace(unmeasured, bytes_per_pixel=need), module, compute).eval()


def import_spandrel() -> Any:
    """The library.

    Raises: UsageError, in one line, if it is missing, too old, or without a torchvision that matches torch.
    """
    try:
        installed = version("spandrel")
    except PackageNotFoundError:
        raise UsageError(f"this needs 'spandrel'; install it with: {installing('spandrel')}") from None
    if tuple(int(part) for part in re.findall(r"\d+", installed)[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise UsageError(f"expected spandrel {oldest} or newer, found {installed}; run: {installing('spandrel')}")
    try:
        with quiet:
            import spandrel
    except (ImportError, RuntimeError, OSError) as error:
        about_torchvision = "torchvision" in f"{error} {getattr(error, 'name', '')}"
        if not about_torchvision:
            raise UsageError(f"spandrel {installed} cannot be imported ({_in_one_line(error)})") from error
        try:
            found = f"torchvision {version('torchvision')} does not match torch {torch.__version__}"
        except PackageNotFoundError:
            found = "spandrel needs torchvision, which is not installed"
        raise UsageError(f"{found}; run: {matching_torchvision(torch.__version__)}") from error
    return spandrel


def matching_torchvision(torch_version: str) -> str:
    """The command that installs the torchvision of a torch: 0.28 belongs to 2.13, and so on, each from where that
    build of torch comes from."""
    release, _, build = torch_version.partition("+")
    minor = int(release.split(".")[1])
    index = (
        f" --index-url https://download.pytorch.org/whl/{build}" if re.fullmatch(r"cpu|cu\d+|xpu|rocm.*", build) else ""
    )
    return installing_packages(f"torchvision==0.{minor + 15}.*") + index


class _Compute:
    """A descriptor as a function, which also pads; without the mode in which it refuses gradients."""

    def __init__(self, path: Path, descriptor: Any) -> None:
        self.path, self.descriptor = path, descriptor

    def __call__(self, image: Tensor) -> Tensor:
        """Raises: CheckpointError for whatever the network raises, but where memory ran out."""
        call = type(self.descriptor).__call__
        try:
            upscaled: Tensor = getattr(call, "__wrapped__", call)(self.descriptor, image)
        except Exception as error:  # another's code may fail in any way
            if out_of_memory(error):
                raise
            size, name = f"{image.shape[3]}x{image.shape[2]}", self.descriptor.architecture.name
            raise CheckpointError(
                f"{self.path}: its network, {name}, fails on a picture of {size} ({_in_one_line(error)})"
            ) from error
        return upscaled.clone() if upscaled.is_inference() else upscaled


def _in_one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _measured(network: ForeignNetwork, sizes: Any) -> int:
    """Bytes per pixel of an image that is padded as much as any."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as it will compute
    least, multiple = max(1, sizes.minimum), max(1, sizes.multiple_of)
    sides = [_padded(side, least, multiple) for side in MEASURED_SIDES]
    if sides[0] == sides[1]:
        sides[1] += multiple * math.ceil(sides[0] / 2 / multiple)
    padding = (_padded(SMALLEST_TILE, least, multiple) / SMALLEST_TILE) ** 2
    return math.ceil(UNSEEN * padding * bytes_per_pixel(network, sides, device=torch.device("cpu")))


def _padded(side: int, least: int, multiple: int) -> int:
    return math.ceil(max(side, least) / multiple) * multiple


def _record(path: Path) -> Path:
    return cache_folder() / "memory" / f"{sha256(path)}.json"


def _remembered(path: Path) -> int | None:
    """What was measured for a file of this content by these versions; None if nothing was."""
    try:
        content = json.loads(_record(path).read_text())
        return int(content["bytes_per_pixel"]) if content["measured with"] == _versions() else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _remember(path: Path, need: int) -> None:
    """A folder that cannot be written is no failure: it will be measured again."""
    with contextlib.suppress(OSError):
        record = _record(path)
        record.parent.mkdir(parents=True, exist_ok=True)
        with replacing(record) as file:
            file.write(json.dumps({"bytes_per_pixel": need, "measured with": _versions()}).encode())


def _versions() -> list[str]:
    return [torch.__version__, version("spandrel")]
