"""Images and their low-res versions, in files of the cache that are mapped, not read. Knows nothing of folders."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from safetensors import safe_open
from torch import Tensor

MAPPED = 4096
"""Files that are mapped at a time: a process may map some 65,000."""


@dataclass(frozen=True)
class Facts:
    """What a high-res file holds.

    Args:
        depth: bits per sample, as in `Picture`.
        alpha: it has transparency, which training leaves out.
        quality: estimated quality of a JPEG.
        sha256: hash of the file.
    """

    height: int
    width: int
    depth: int
    grey: bool
    alpha: bool
    quality: int | None
    sha256: str


@dataclass(frozen=True)
class Entry:
    """An image in the cache.

    Args:
        path: the image. file: its file in the cache.
        sizes: height and width of its low-res images; none if it is too small to have one.
        taught: the file of what a teacher makes of them.
    """

    path: Path
    file: Path
    facts: Facts
    sizes: tuple[tuple[int, int], ...]
    taught: Path | None = None


class Pairs(Sequence[tuple[Tensor, Tensor]]):
    """Low-res and high-res uint8 images; the sides of the second are `scale` times those of the first.

    Args:
        entries: in the order of training; each image is there once per size.
        left_out: files that cannot be used, each with the reason, one line each.
        teacher: the digest of the weights that made the `taught` file of every entry; None where there are none.
    """

    def __init__(
        self, entries: Sequence[Entry], scale: int, left_out: Sequence[str] = (), *, teacher: str | None = None
    ) -> None:
        self.entries, self.scale, self.left_out, self.teacher = entries, scale, left_out, teacher
        self._places = [(entry, number) for entry in entries for number in range(len(entry.sizes))]
        self._images = lru_cache(MAPPED)(lambda file: opened(file)[0])

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 _h _w"], UInt8[Tensor, "3 _sh _sw"]]:  # type: ignore[override]
        entry, number = self._places[index]
        images = self._images(entry.file)
        return images[f"low{number}"], images[f"high{number}"]

    def taught(self, index: int) -> UInt8[Tensor, "3 _sh _sw"]:
        """What the teacher makes of the low-res image of a pair."""
        entry, number = self._places[index]
        assert entry.taught is not None
        return self._images(entry.taught)[f"taught{number}"]

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process maps the files itself; the images are not sent."""
        return partial(Pairs, teacher=self.teacher), (self.entries, self.scale, self.left_out)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each low-res image."""
        return [entry.sizes[number] for entry, number in self._places]


def checksum(images: dict[str, Tensor], total: int = 0) -> int:
    """CRC-32 of tensors with their names and shapes, behind what was summed before."""
    for name in sorted(images):
        total = zlib.crc32(f"{name} {tuple(images[name].shape)}".encode(), total)
        total = zlib.crc32(images[name].numpy().data, total)
    return total


def opened(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, mapped, and its metadata. The system reads what is looked at."""
    with safe_open(file, "pt") as content:
        return {name: content.get_tensor(name) for name in content.keys()}, content.metadata() or {}  # noqa: SIM118
