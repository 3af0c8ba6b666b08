"""A folder of high-res images as pairs: each cropped to a multiple of the scale, and its low-res image, made by
MATLAB's bicubic `imresize` on 8-bit values or taken from another folder. Knows nothing of networks and metrics.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from nlsr.errors import ImageError, ShapeError, UsageError
from nlsr.images import filled, from_8_bits, is_picture, read, resize, to_8_bits

_NAMELESS = re.compile(r"hr|gt|gtmod\d+|original|high.?res|images?|x\d|image_srf_\d", re.IGNORECASE)
"""Folders inside that of a data set, whose name says nothing of it."""


@dataclass(frozen=True, eq=False)
class Pair:
    """One image twice: float32 RGB in [0, 1], every value a multiple of 1/255."""

    name: str
    low_res: Float[Tensor, "1 3 h w"]
    high_res: Float[Tensor, "1 3 height width"]
    grey: bool = False
    """Whether the high-res file is grey, repeated to RGB."""


class PairFolder:
    """The images of one folder, not of its subfolders, in the order of their names; read when asked for.

    Deeper files are rounded to 8 bits first, and grey ones repeated to RGB, as the papers do.
    """

    def __init__(self, folder: str | Path, *, scale: int, low_res: str | Path | None = None) -> None:
        """
        Args:
            folder: holds high-res images; hidden files and files that do not end like an image are ignored.
            scale: how many times smaller the low-res images are; a whole number.
            low_res: a folder of low-res images, called as the high-res ones or as published sets call them
                (`img_x4.png`, `imgx4.png`, `img_LRBI_x4.png`); files that name another scale are ignored.
                By default they are made.
        Raises: ImageError if a folder cannot be listed or has no image in it, UsageError if the scale
            is not positive.
        """
        if scale < 1:
            raise UsageError(f"expected a scale of 1 or more, got {scale}")
        self.folder = Path(folder)
        self.scale = scale
        self.paths = _image_paths(self.folder, "high-res")
        self._low_res = None if low_res is None else _LowResFiles(Path(low_res), self.paths, scale)

    @property
    def unpaired(self) -> list[Path]:
        """Low-res files that belong to no high-res image."""
        return [] if self._low_res is None else self._low_res.unpaired

    def files(self, index: int) -> list[Path]:
        """What a pair is read from: the high-res file, and the low-res one where it is not made.

        Raises: ImageError if there is no low-res file for it, or more than one.
        """
        path = self.paths[index]
        return [path] if self._low_res is None else [path, self._low_res.of(path)]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Pair:
        """Read one image and make or read its low-res image.

        Raises: ImageError if a file cannot be read or is missing, ShapeError if one has a wrong size.
        """
        path, *low_res_path = self.files(index)
        picture = read(path)
        high_res = modcrop(to_8_bits(filled(picture)), self.scale)
        if low_res_path:
            low_res = to_8_bits(filled(read(low_res_path[0])))
            check_low_res(low_res, high_res, self.scale, low_res_path[0])
        else:
            low_res = resize(high_res, scale=Fraction(1, self.scale))
        return Pair(path.name, from_8_bits(low_res), from_8_bits(high_res), picture.grey)

    def __iter__(self) -> Iterator[Pair]:
        return (self[index] for index in range(len(self)))


def data_set_name(folder: str | Path) -> str:
    """What a folder of images is called in tables: its name, or that of the one around it for the likes of Set5/HR."""
    folder = Path(folder).resolve()
    return folder.parent.name if _NAMELESS.fullmatch(folder.name) and folder.parent.name else folder.name


def modcrop(image: Tensor, scale: int) -> Tensor:
    """Crop the last two axes to multiples of the scale; the top-left corner stays. Returns a view.

    Raises: ShapeError if nothing is left.
    """
    height, width = image.shape[-2:]
    if min(height, width) < scale:
        raise ShapeError(f"expected an image of {scale}×{scale} pixels or more at scale {scale}, got {width}×{height}")
    return image[..., : height - height % scale, : width - width % scale]


class _LowResFiles:
    """Which low-res file belongs to which high-res file, by their names."""

    def __init__(self, folder: Path, high_res: list[Path], scale: int) -> None:
        self.folder, self.scale = folder, scale
        self._files: dict[str, list[Path]] = {}
        exact = {path.stem for path in high_res}
        for path in _image_paths(folder, "low-res"):
            key = path.stem if path.stem in exact else self._key(path.stem)
            if key is not None:
                self._files.setdefault(key, []).append(path)
        known = {key for path in high_res for key in self._keys(path)}
        self.unpaired = [path for key, paths in self._files.items() if key not in known for path in paths]

    def of(self, high_res: Path) -> Path:
        for key in self._keys(high_res):
            paths = self._files.get(key, [])
            if len(paths) > 1:
                names = ", ".join(path.name for path in paths)
                raise ImageError(f"{self.folder}: {names} all belong to {high_res.name}; leave one of them")
            if paths:
                return paths[0]
        stem, scale = high_res.stem, self.scale
        raise ImageError(
            f"{self.folder}: no low-res image for {high_res.name}; expected {stem}.png, {stem}_x{scale}.png, "
            f"{stem}x{scale}.png or {stem}_LRBI_x{scale}.png"
        )

    def _keys(self, high_res: Path) -> list[str]:
        """The names a high-res file may go by; some sets add the scale to these too."""
        key = self._key(high_res.stem)
        return [high_res.stem, *([key] if key not in (None, high_res.stem) else [])]

    def _key(self, stem: str) -> str | None:
        """A file's name without what says its kind and scale; None if that is another scale."""
        match = _PUBLISHED_NAME.fullmatch(stem)
        if match is None:
            return stem
        return match["name"] if int(match["scale"]) == self.scale else None


_PUBLISHED_NAME = re.compile(
    r"(?P<name>.+?)"
    r"(?:(?:[_-](?:LR|HR|GT)[A-Z]{0,2})?[_-]?x|_SRF_)(?P<scale>[1-9])(?:_(?:LR|HR))?",
    re.IGNORECASE,
)


def check_low_res(low_res: Tensor, high_res: Tensor, scale: int, path: Path) -> None:
    height, width = (side // scale for side in high_res.shape[-2:])
    if low_res.shape[-2:] != (height, width):
        got_height, got_width = low_res.shape[-2:]
        raise ShapeError(
            f"{path}: expected a low-res image of {width}×{height} at scale {scale}, got {got_width}×{got_height}"
        )


def _image_paths(folder: Path, kind: str) -> list[Path]:
    try:
        entries = list(folder.iterdir())
    except OSError as error:  # missing, a file, or not ours to read
        raise ImageError(f"{folder}: {error.strerror}; expected a folder of {kind} images") from error
    paths = sorted(path for path in entries if is_picture(path.name) and not path.is_dir())
    if not paths:
        raise ImageError(f"{folder}: no image in this folder; expected files such as .png, .jpg or .tif in it")
    return paths
