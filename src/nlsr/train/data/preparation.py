"""From folders of images to pairs: every image decoded once, into a cache of one file per image."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nlsr.errors import ImageError, NlsrError, RecipeError, UsageError
from nlsr.evaluate import PairFolder
from nlsr.files import remove_all_abandoned
from nlsr.images import READ_ENDINGS, one_line
from nlsr.report import Report
from nlsr.train.data.cache import entry_of
from nlsr.train.data.pairs import Entry, Pairs
from nlsr.upscale.batch.sources import find_pictures

MOST_DECODERS = 8
"""Each holds an image in several copies."""


def prepare(
    folders: Sequence[Path],
    *,
    scale: int,
    cache: Path,
    source_scales: Sequence[float] = (1.0,),
    low_res: Sequence[Path] | None = None,
    report: Report | None = None,
) -> Pairs:
    """Decode all images of some folders, or take from the cache what did not change since.

    Each image is used at each of `source_scales`, cropped to a multiple of the scale; low-res images are made by
    MATLAB-exact bicubic resizing of 8-bit values. Grey images are repeated to RGB, deeper ones rounded to 8 bits,
    and what is transparent gets the colours around it. What is in the cache is checked, and made again if damaged.
    If it is interrupted at any moment, the same call continues where it stopped.

    Args:
        folders: searched with all below them.
        low_res: for each folder one of low-res images, called as published sets call them; then images are taken
            from the folders themselves and not from below, and used at their own size.
    Returns: the images in the order of their names, folder by folder, and what was left out.
    Raises: RecipeError if a folder is missing or holds no image that can be used, and for low-res folders that do
        not fit the other arguments; ImageError if the cache cannot be written.
    """
    if low_res is not None and (len(low_res) != len(folders) or list(source_scales) != [1.0]):
        raise RecipeError("low-res folders: expected one for each folder of training images, and no source_scales")
    files: list[list[Path]] = []
    left_out: list[str] = []
    for number, folder in enumerate(folders):
        if low_res is None:
            files += [[path] for path in _images(folder)]
        else:
            _pair_up(folder, low_res[number], scale, files, left_out)
    entries = _entries(files, scale, source_scales, cache / "pairs", left_out, report)
    if not entries:
        raise RecipeError(f"none of the {len(left_out)} training images can be used; the first: {left_out[0]}")
    return Pairs(entries, scale, left_out)


def _images(folder: Path) -> list[Path]:
    _check_folder(folder, "training")
    try:
        return [source.path for source in find_pictures([folder]).sources]
    except UsageError as error:
        endings = " ".join(READ_ENDINGS)
        raise RecipeError(f"{one_line(folder)}: expected training images ({endings}), found none") from error


def _pair_up(folder: Path, low_res: Path, scale: int, files: list[list[Path]], left_out: list[str]) -> None:
    _check_folder(folder, "training")
    _check_folder(low_res, "low-res")
    found = PairFolder(folder, scale=scale, low_res=low_res)
    for index in range(len(found)):
        try:
            files.append(found.files(index))
        except ImageError as error:
            left_out.append(str(error))


def _check_folder(folder: Path, kind: str) -> None:
    if not folder.is_dir():
        raise RecipeError(
            f"{one_line(folder)}: expected a folder of {kind} images, found none; check its name and where it should be"
        )


def _entries(
    files: list[list[Path]],
    scale: int,
    source_scales: Sequence[float],
    cache: Path,
    left_out: list[str],
    report: Report | None,
) -> list[Entry]:
    entries: list[Entry] = []
    pool = ThreadPoolExecutor(min(MOST_DECODERS, os.cpu_count() or 1))
    try:
        cache.mkdir(parents=True, exist_ok=True)
        remove_all_abandoned(cache)
        made = [pool.submit(entry_of, one, scale=scale, source_scales=source_scales, folder=cache) for one in files]
        for done, future in enumerate(made):
            if report:
                report(done, len(files))
            try:
                entries.append(future.result())
            except NlsrError as error:
                left_out.append(str(error))
        if report:
            report(len(files), len(files))
    except OSError as error:  # reading raises none
        raise ImageError(
            f"{one_line(cache)}: the decoded images cannot be written ({error.strerror}); {len(entries)} of "
            f"{len(files)} are there and stay; free some space or choose another folder with `cache`, then repeat "
            "the command"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
    return entries
