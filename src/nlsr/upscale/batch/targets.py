"""Where the result of each picture goes. Knows nothing of files' contents."""

import os
import re
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
                raise UsageError(f"--name {one_line(self.pattern)}: has no {{{field}}}; there is {known}")
        if os.path.basename(self.pattern) != self.pattern or "\0" in self.pattern or self.pattern in ("", ".", ".."):
            expected = "expected a file name without folders, like '{stem}_{size}'"
            raise UsageError(f"--name {one_line(self.pattern)}: {expected}")

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
    pictures = {_place(source.path): source.path for source in sources}
    taken: dict[str, Path] = {}
    found = []
    for source, target in zip(sources, targets, strict=True):
        problem, place = source.problem, _place(target)
        if _is_one_file(source.path, target):
            problem = f"{one_line(target)}: the output is the input; choose another with -o"
        elif place in pictures:
            problem = f"its result would take the place of {one_line(pictures[place])}; choose another folder or --name"
        elif problem is None and taken.setdefault(place, source.path) != source.path:
            problem = (
                f"its result would be {one_line(target)}, as that of {one_line(taken[place])}; tell them apart, "
                "like with --name '{stem}_{input_ext}'"
            )
        found.append(Task(source.path, target, problem))
    return found


def _place(path: Path) -> str:
    """Equal for paths that are one, also through links; on Windows the case of letters does not count."""
    return os.path.normcase(os.path.realpath(path))


def _is_one_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
