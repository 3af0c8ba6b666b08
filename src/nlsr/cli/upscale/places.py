"""Which pictures are meant, and where their results go and in which format."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nlsr.cli.upscale.standard import Standard
from nlsr.errors import UsageError

if TYPE_CHECKING:
    from nlsr.upscale.batch import Found, Source, Task

SAME = "same"
BESIDE = "{stem}_{size}"
"""The names of results beside their pictures."""


@dataclass(frozen=True)
class Places:
    """Pictures, and where their results go.

    Args:
        file: of the result of the only picture; without it, names are made by `pattern`.
        folder: of the results; without it they lie beside their pictures.
        record: whether what is finished is recorded in the folder.
        ending: of results, for names without one; None for that of each picture.
        format: of results; without it, endings decide.
    """

    sources: "list[Source]"
    file: Path | None
    folder: Path | None
    record: bool
    pattern: str
    ending: str | None
    format: str | None

    def tasks(self, *, size: str, model: str) -> "list[Task]":
        """What is to be done, what cannot be first. `size` and `model` stand in names."""
        from nlsr.upscale.batch import Naming, tasks, without_results

        sources = self.sources
        if self.file is not None:
            targets = [self.file]
        else:
            naming = Naming(self.folder, self.pattern, size, model, ext=self.ending)
            if self.folder is None and self.pattern == BESIDE:
                sources = without_results(sources, [naming.target(source) for source in sources])
                _say_what_is_left_out(len(self.sources) - len(sources))
            targets = [naming.target(source) for source in sources]
        return sorted(tasks(sources, targets), key=lambda task: task.problem is None)


def find_places(standard: Standard, *, name: str | None, format: str | None, resume: bool) -> Places:
    """Raises: UsageError for words that contradict each other."""
    from nlsr.images import format_named, one_line

    inputs, output = standard.inputs, standard.output
    if format is not None and format != SAME:
        format_named(format)
    in_place = name is not None and _is_folder_itself(inputs, output)
    if in_place:
        output = inputs[0]
    found = _found(standard, None if in_place else output)
    if in_place:
        _leave_out_results(found, Path(inputs[0]))
    if found.in_folders and output is None:
        raise UsageError(
            f"{one_line(inputs[0])}: expected -o FOLDER for the results of a folder, or --name for names beside the "
            "pictures, like '{stem}_{size}'"
        )
    folder = _folder(found, output)
    record = folder is not None and (found.several or len(inputs) > 1 or resume)
    if resume and not record:
        raise UsageError("--resume: expected -o FOLDER, where the record of what is finished lies")
    if output is None or folder is not None:
        pattern = name or (BESIDE if folder is None else "{stem}")
        _check_pattern(pattern, format)
        if format == SAME:
            _say_what_becomes_png(found)
            return Places(found.sources, None, folder, record, pattern, None, None)
        return Places(found.sources, None, folder, record, pattern, _ending(format), format)
    if name is not None:
        raise UsageError(f"--name {one_line(name)}: expected -o to be a folder, or left out")
    wanted = _format_of_file(output, format, found.sources[0].path)
    if standard.result is not None:
        wanted = wanted or "PNG"
    return Places(found.sources, Path(output), None, False, "", None, wanted)


def _is_folder_itself(inputs: list[str], output: str | None) -> bool:
    """Whether results are to stand among the pictures of the only folder."""
    if len(inputs) != 1 or not os.path.isdir(inputs[0]):
        return False
    return output is None or os.path.realpath(output) == os.path.realpath(inputs[0])


def _found(standard: Standard, output: str | None) -> "Found":
    from nlsr.upscale.batch import find_pictures

    elsewhere = standard.staging.search if standard.staging else None
    found = find_pictures(standard.inputs, leave_out=Path(output) if output else None, elsewhere=elsewhere)
    if found.others:
        endings = ", ".join(f"{count} {ending}" for ending, count in found.others.most_common())
        print(f"upscale: left out what is no picture: {endings}", file=sys.stderr)
    return found


def _leave_out_results(found: "Found", folder: Path) -> None:
    """Results of earlier runs are not enlarged again: the record of the folder tells them from pictures."""
    from nlsr.images import one_line
    from nlsr.upscale.batch import results_of

    results = results_of(folder)
    pictures = [source for source in found.sources if source.path not in results]
    if not pictures:
        raise UsageError(f"{one_line(folder)}: holds no picture beside the results of earlier runs")
    _say_what_is_left_out(len(found.sources) - len(pictures))
    found.sources[:] = pictures


def _say_what_is_left_out(count: int) -> None:
    if count:
        print(f"upscale: left out the results of earlier runs: {count}", file=sys.stderr)


def _folder(found: "Found", output: str | None) -> Path | None:
    """The folder of the results; None for results beside the pictures, and for a single file."""
    from nlsr.images import one_line

    if output is None:
        return None
    path = Path(output)
    several = found.several or len(found.sources) > 1
    if not (several or path.is_dir() or output.endswith((os.sep, os.altsep or os.sep))):
        return None
    if path.exists() and not path.is_dir():
        raise UsageError(f"{one_line(output)}: expected a folder for {len(found.sources)} pictures, got a file")
    return path


def _check_pattern(pattern: str, format: str | None) -> None:
    """Raises: UsageError if names and --format say different formats."""
    said = _said_by_ending(pattern)
    if said is None or format is None:
        return
    if format == SAME or said != _named(format):
        _contradict(f"--name {pattern}", said, format)


def _format_of_file(output: str, format: str | None, picture: Path) -> str | None:
    """The format of the only result, if the ending of its name does not decide."""
    from nlsr.upscale.batch import same_ending

    if format is None:
        return None
    wanted = _named(same_ending(picture) if format == SAME else format)
    said = _said_by_ending(output)
    if said is not None and said != wanted:
        _contradict(f"-o {output}", said, f"{SAME}, which is {wanted}" if format == SAME else format)
    return wanted


def _contradict(option: str, said: str, format: str) -> None:
    from nlsr.images import one_line

    raise UsageError(f"{one_line(option)}: {said} by its ending, but --format {format}; leave one of them out")


def _said_by_ending(name: str) -> str | None:
    from nlsr.images import ENDINGS

    return ENDINGS.get(os.path.splitext(name)[1].lower())


def _named(format: str) -> str:
    from nlsr.images import format_named

    return format_named(format)


def _ending(format: str | None) -> str:
    return (format or "png").lower().removeprefix(".")


def _say_what_becomes_png(found: "Found") -> None:
    from nlsr.images import ENDINGS, format_of

    formats = {format_of(source.path) for source in found.sources} - {None} - set(ENDINGS.values())
    if formats:
        print(f"upscale: --format same: {', '.join(sorted(map(str, formats)))} is not written, PNG is", file=sys.stderr)
