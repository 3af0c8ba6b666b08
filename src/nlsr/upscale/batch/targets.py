"""Where the result of each picture goes. Knows nothing of files' contents."""

import os
import re
import tempfile
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nlsr.errors import UsageError
from nlsr.images import ENDINGS, format_of, one_line
from nlsr.upscale.batch.sources import Source

FIELDS = ("stem", "size", "scale", "model", "ext", "input_ext")


@dataclass(frozen=True)
class Naming:
    """How results are called and where they lie.

    Args:
        folder: in which the places of the pictures are mirrored; without it a result lies beside its picture.
        pattern: names, with fields in braces: {stem} is the picture's name without its ending, {input_ext} that
            ending, and the others are what is given here. The ending is appended to a pattern without one.
        size: x4, w1920 or 3840x2160; {scale} is the same without its x.
        ext: the ending of results, without its dot; None for that of each picture.
    Raises: UsageError for an unknown field, or a pattern that is no file name.
    """

    folder: Path | None
    pattern: str
    size: str
    model: str
    ext: str | None = "png"

    def __post_init__(self) -> None:
        for field in _FIELD.findall(self.pattern):
            if field not in FIELDS:
                known = ", ".join(f"{{{name}}}" for name in FIELDS)
                raise UsageError(f"`name={one_line(self.pattern)}`: has no {{{field}}}; there is {known}")
        if os.path.basename(self.pattern) != self.pattern or "\0" in self.pattern or self.pattern in ("", ".", ".."):
            expected = "expected a file name without folders, like '{stem}_{size}'"
            raise UsageError(f"`name={one_line(self.pattern)}`: {expected}")

    def target(self, source: Source) -> Path:
        """The file of a result."""
        values = {"stem": source.path.stem, "input_ext": source.path.suffix[1:], "scale": self.size.removeprefix("x")}
        values |= {"size": self.size, "model": self.model, "ext": self.ext or same_ending(source.path)}
        pattern = self.pattern if self._has_ending() else self.pattern + ".{ext}"
        name = _FIELD.sub(lambda match: values[match[1]], pattern)
        return (source.path.parent if self.folder is None else self.folder / source.place.parent) / name

    @property
    def has_ending(self) -> bool:
        """Whether the pattern says the format itself."""
        return os.path.splitext(self.pattern)[1].lower() in ENDINGS

    def _has_ending(self) -> bool:
        return self.pattern.endswith(".{ext}") or self.has_ending


def same_ending(path: Path) -> str:
    """The ending, without its dot, with which a result has the format of a picture: its own ending where that is true.

    Formats that are read but not written become PNG.
    """
    format = format_of(path) or ENDINGS.get(path.suffix.lower())
    if path.suffix and ENDINGS.get(path.suffix.lower()) == format:
        return path.suffix[1:]
    return next((ending[1:] for ending, known in ENDINGS.items() if known == format), "png")


_FIELD = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True)
class Task:
    """A picture to be upscaled into a file; `problem` says why not, if that is known before."""

    source: Path
    target: Path
    problem: str | None = None


def tasks(sources: Sequence[Source], targets: Sequence[Path]) -> list[Task]:
    """Each picture with its result.

    A result that would take the place of a picture, or of an earlier picture's result, is a problem.
    """
    pictures, results = _Owners(), _Owners()
    for source in sources:
        pictures.first(source.path, source.path)
    found = []
    for source, target in zip(sources, targets, strict=True):
        problem = source.problem
        if _is_one_file(source.path, target):
            problem = f"{one_line(target)}: the output is the input; choose another"
        elif picture := pictures.of(target):
            problem = f"its result would take the place of {one_line(picture)}; choose another folder or `name`"
        elif problem is None and (first := results.first(target, source.path)) != source.path:
            problem = (
                f"its result would be {one_line(target)}, as that of {one_line(first)}; tell them apart, "
                "like with `name={stem}_{input_ext}`"
            )
        found.append(Task(source.path, target, problem))
    return found


def without_results(sources: Sequence[Source], targets: Sequence[Path]) -> list[Source]:
    """The pictures without those that stand where the result of another one goes.

    That is what a shell makes of `*.png` where results of earlier runs lie beside their pictures.
    """
    results = _Owners()
    for source, target in zip(sources, targets, strict=True):
        if not _is_one_file(source.path, target):
            results.first(target, source.path)
    return [source for source in sources if results.of(source.path) is None]


class _Owners:
    """Pictures by a place in the file system: a file has one owner, whatever it is called.

    One file may have several names: links lead to it, and many file systems of Windows and macOS do not tell letters
    by their case or by how their accents are stored.
    """

    def __init__(self) -> None:
        self.owners: dict[str, dict[str, Path]] = {}

    def of(self, path: Path) -> Path | None:
        """The owner of a file, if it has one."""
        place = os.path.realpath(path)
        similar = self.owners.get(_folded(place), {})
        if place in similar:
            return similar[place]
        return next((owner for other, owner in similar.items() if _are_one_name(other, place)), None)

    def first(self, path: Path, owner: Path) -> Path:
        """The owner of a file, who is this one if it had none."""
        found = self.of(path)
        if found is None:
            place = os.path.realpath(path)
            self.owners.setdefault(_folded(place), {})[place] = owner
        return found or owner


def _folded(place: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", place).casefold())


def _are_one_name(place: str, other: str) -> bool:
    """Whether a file system takes two spellings for one; tried out with a file of its own, which is gone afterwards.

    Where nothing can be written there, they count as two: no result will take another's place.
    """
    parts, others = Path(place).parts, Path(other).parts
    number, pair = next((i, pair) for i, pair in enumerate(zip(parts, others, strict=False)) if pair[0] != pair[1])
    folder = Path(*parts[:number])
    folder = next((above for above in (folder, *folder.parents) if above.is_dir()), folder)
    try:
        with tempfile.TemporaryDirectory(prefix=".nlsr-", dir=folder) as trial:
            Path(trial, pair[0]).touch()
            return os.path.lexists(os.path.join(trial, pair[1]))
    except OSError:
        return False


def _is_one_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
