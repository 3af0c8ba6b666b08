"""One training image in the cache: at every size, with its low-res version, and what is known of its file.

An entry is a safetensors file. It belongs to a path, so that a changed image replaces its own entry; it names the
content that it was made of, and holds a checksum of what it holds, so that a damaged one is noticed and made again. It
has its name only when it is complete. So an interrupted run loses what was in hand and nothing else.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from nlsr.errors import ImageError
from nlsr.evaluate.datasets import check_low_res
from nlsr.files import replacing, sha256
from nlsr.images import filled, one_line, read, resize, to_8_bits
from nlsr.train.data.pairs import Entry, Facts, checksum, opened
from nlsr.train.data.quality import jpeg_quality

VERSION = 1
"""Version of what is done to an image; another version gives entries of other names."""

ENDING = ".safetensors"


def default_folder() -> Path:
    """Where decoded images are kept if nobody says another place; may be deleted whenever no training runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nlsr"


def entry_of(files: Sequence[Path], *, scale: int, source_scales: Sequence[float], folder: Path) -> Entry:
    """Take an image from the cache, or decode it into the cache if it is not there, has changed, or is damaged.

    Args:
        files: the high-res file and, where it is not to be made, the low-res one.
    Raises: ImageError for a file that cannot be read; ShapeError for a low-res file of a wrong size; OSError if the
        entry cannot be written.
    """
    target = folder / (_name(files, scale, source_scales) + ENDING)
    state = [_state(file) for file in files]
    found = _read(target)
    if found is None or (found["state"] != state and found["digests"] != [_digest(file) for file in files]):
        found = _make(files, scale, source_scales, target, state)
    sizes = tuple((height, width) for height, width in found["sizes"])
    return Entry(files[0], target, Facts(**found["facts"]), sizes)


def _name(files: Sequence[Path], scale: int, source_scales: Sequence[float]) -> str:
    paths = [os.fsencode(os.path.realpath(file)).hex() for file in files]
    return hashlib.sha256(json.dumps([VERSION, paths, scale, list(source_scales)]).encode()).hexdigest()[:32]


def _state(file: Path) -> list[int]:
    try:
        status = file.stat()
    except OSError as error:
        raise ImageError(f"{one_line(file)}: cannot be read ({error.strerror})") from error
    return [status.st_size, status.st_mtime_ns]


def _digest(file: Path) -> str:
    try:
        return sha256(file)
    except OSError as error:
        raise ImageError(f"{one_line(file)}: cannot be read ({error.strerror})") from error


def _read(target: Path) -> dict[str, Any] | None:
    """What an entry says of itself; None if there is none, or it is damaged."""
    try:
        images, metadata = opened(target)
        about = json.loads(metadata["nlsr"])
        whole = about.pop("checksum") == _checksum(images, about)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    return about if whole else None


def _checksum(images: dict[str, Tensor], about: dict[str, Any]) -> int:
    return checksum(images, zlib.crc32(json.dumps(about, sort_keys=True).encode()))


def _make(
    files: Sequence[Path], scale: int, source_scales: Sequence[float], target: Path, state: list[list[int]]
) -> dict[str, Any]:
    picture = read(files[0])
    source = to_8_bits(filled(picture))[0]
    images: dict[str, Tensor] = {}
    for number, high in enumerate(_sizes(source, source_scales, scale)):
        images[f"high{number}"] = high
        images[f"low{number}"] = resize(high, scale=1 / scale) if len(files) == 1 else _given(files[1], high, scale)
    digests = [_digest(file) for file in files]
    facts = Facts(
        height=source.shape[1],
        width=source.shape[2],
        depth=picture.depth,
        grey=picture.grey,
        alpha=picture.alpha is not None,
        quality=jpeg_quality(files[0]),
        sha256=digests[0],
    )
    sizes = [list(images[f"low{number}"].shape[1:]) for number in range(len(images) // 2)]
    about = {"state": state, "digests": digests, "sizes": sizes, "facts": asdict(facts)}
    _write(target, images, about)
    return about


def _sizes(
    source: UInt8[Tensor, "3 _h _w"], source_scales: Sequence[float], scale: int
) -> Iterator[UInt8[Tensor, "3 _h _w"]]:
    """The image at each size, cropped to multiples of the scale; sizes at which nothing is left are left out."""
    for source_scale in source_scales:
        high = source if source_scale == 1 else resize(source, scale=source_scale)
        height, width = (side // scale * scale for side in high.shape[1:])
        if height and width:
            yield high[:, :height, :width].contiguous()


def _given(file: Path, high: UInt8[Tensor, "3 _h _w"], scale: int) -> UInt8[Tensor, "3 _h _w"]:
    low = to_8_bits(filled(read(file)))[0].contiguous()
    check_low_res(low, high, scale, file)
    return low


def _write(target: Path, images: dict[str, Tensor], about: dict[str, Any]) -> None:
    metadata = {"nlsr": json.dumps(about | {"checksum": _checksum(images, about)}, sort_keys=True)}
    with replacing(target) as file:
        file.write(save(images, metadata))
