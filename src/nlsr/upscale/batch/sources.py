"""Which pictures are meant by files, folders and globs. Knows nothing of where results go.

A named file is taken whatever it is called; folders and globs are searched for pictures, known by their endings, and
what is hidden (a name that begins with a dot) is left out.
"""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path, PurePath

from nlsr.errors import UsageError
from nlsr.images import READ_ENDINGS, is_picture, one_line
from nlsr.storage import is_address


@dataclass(frozen=True)
class Source:
    """A picture that is meant.

    Args:
        path: the file.
        place: its path relative to what the user named: where its result belongs in an output folder.
        problem: why it cannot be read, if searching has shown that.
    """

    path: Path
    place: PurePath
    problem: str | None = None


@dataclass
class Found:
    """What a search has found.

    Args:
        sources: in the order of what was named, folders sorted by name.
        several: whether a folder or a glob was among it, which may hold any number.
        in_folders: whether folders were searched.
        others: how many files a search left out, by ending.
    """

    sources: list[Source] = field(default_factory=list)
    several: bool = False
    in_folders: bool = False
    others: Counter[str] = field(default_factory=Counter)


Elsewhere = Callable[[str, PurePath, Path | None, Counter[str]], list[Source]]
"""Finds the pictures of an address, as `Staging.search` does."""


def find_pictures(
    words: Sequence[str | os.PathLike[str]], *, leave_out: Path | None = None, elsewhere: Elsewhere | None = None
) -> Found:
    """The pictures that are meant.

    A folder's own name is part of the places of its pictures where it is one of several words: two folders may hold
    equal names. `**` in a glob stands for any number of folders. Links to folders are followed, each folder once.

    Args:
        words: files, folders and globs; what exists is no glob.
        leave_out: a folder that is not searched: that of the results.
        elsewhere: finds pictures of object storage.
    Raises: UsageError if a folder or glob holds no picture, or is the one to be left out.
    """
    found = Found()
    result_folder = os.path.realpath(leave_out) if leave_out is not None else None
    for word in [os.fspath(word) for word in words]:
        if elsewhere is not None and is_address(word):
            own_name = PurePath(PurePath(word).name if len(words) > 1 else "")
            sources = elsewhere(word, own_name, leave_out, found.others)
            if len(sources) > 1 or not word.endswith(sources[0].path.name):
                found.several = found.in_folders = True
            found.sources += sources
            continue
        if os.path.isdir(word):
            if os.path.realpath(word) == result_folder:
                raise UsageError(
                    f"{one_line(word)}: the output folder is the input folder; choose another, or "
                    "other names with `name`, like '{stem}_{size}'"
                )
            own_name = PurePath(os.path.basename(os.path.abspath(word)) if len(words) > 1 else "")
            sources = list(_in_folder(Path(word), own_name, result_folder, found.others))
        elif glob.has_magic(word) and not os.path.lexists(word):
            sources = list(_of_glob(word, result_folder, found.others))
        else:
            found.sources.append(Source(Path(word), PurePath(os.path.basename(word))))
            continue
        if not sources:
            raise UsageError(f"{one_line(word)}: holds no picture; looked for {' '.join(READ_ENDINGS)}")
        found.several = True
        found.in_folders |= os.path.isdir(word) or any(len(source.place.parts) > 1 for source in sources)
        found.sources += sources
    return replace(found, sources=_each_once(found.sources))


def _each_once(sources: list[Source]) -> list[Source]:
    first: dict[str, Source] = {}
    for source in sources:
        first.setdefault(os.path.abspath(source.path), source)
    return list(first.values())


def _in_folder(top: Path, place: PurePath, leave_out: str | None, others: Counter[str]) -> Iterator[Source]:
    """Pictures of a folder and all below, real folders before linked ones, each once: so links that lead back end."""
    seen: set[tuple[int, int]] = set()
    links = [(top, place)]
    for start, start_place in links:
        unreadable: list[OSError] = []
        for folder, folders, files in os.walk(start, onerror=unreadable.append):
            here, here_place = Path(folder), start_place / os.path.relpath(folder, start)
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen or os.path.realpath(folder) == leave_out:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            links += [(here / name, here_place / name) for name in folders if (here / name).is_symlink()]
            if not folders and not files and is_picture(here.name):
                yield Source(here, here_place)  # reading says that it is a folder
            for name in sorted(files):
                if is_picture(name):
                    yield Source(here / name, here_place / name)
                elif not name.startswith("."):
                    others[ending(name)] += 1
        for error in unreadable:
            below = os.path.relpath(error.filename, start)
            yield Source(Path(error.filename), start_place / below, f"cannot be searched ({error.strerror})")


def _of_glob(word: str, leave_out: str | None, others: Counter[str]) -> Iterator[Source]:
    fixed, wild = _split(word)
    if "**" in wild:
        # What does not match was not meant, and is not counted.
        for source in _in_folder(Path(fixed), PurePath(), leave_out, Counter()):
            if _match(source.place.parts, wild if wild[-1] != "**" else (*wild, "*")):
                yield source
        return
    for match in sorted(glob.glob(word)):
        place = PurePath(os.path.relpath(match, fixed))
        if os.path.isdir(match):
            yield from _in_folder(Path(match), place, leave_out, others)
        elif leave_out is not None and Path(leave_out) in Path(os.path.realpath(match)).parents:
            continue
        elif is_picture(place.name):
            yield Source(Path(match), place)
        else:
            others[ending(place.name)] += 1


def _split(word: str) -> tuple[str, tuple[str, ...]]:
    """The folder before the first wildcard, and the parts from there on."""
    parts = PurePath(word).parts
    first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return str(PurePath(*parts[:first])), parts[first:]


def _match(parts: tuple[str, ...], wild: tuple[str, ...]) -> bool:
    """Whether a path fits a glob, both in parts."""
    if not wild:
        return not parts
    if wild[0] == "**":
        return any(_match(parts[skipped:], wild[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatch(parts[0], wild[0]) and _match(parts[1:], wild[1:])


def ending(name: str) -> str:
    """How a name is counted among what is no picture."""
    return one_line(os.path.splitext(name)[1].lower()) or "without ending"
