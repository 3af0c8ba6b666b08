"""What is asked of a batch, and what of it decides about results."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nlsr.errors import ImageError, UsageError
from nlsr.images import (
    MAX_PIXELS,
    Picture,
    check_format,
    flattened,
    holds_alpha,
    one_line,
    tone_mapped,
    without_metadata,
)
from nlsr.upscale.identity import identity
from nlsr.upscale.stream import is_opaque
from nlsr.upscale.upscaler import Upscaler


@dataclass(frozen=True)
class Saving:
    """What is asked for beside the upscaling itself.

    Args:
        format: format of the results; without it their ending decides.
        quality: as `nlsr.images.write` takes it.
        strip: leave all metadata out; what the colours mean stays.
        tone_map: bring pictures of PQ and HLG to standard range.
        overwrite: replace files that are there.
        make_folders: create the folders of results.
        background: red, green and blue in [0, 1] behind transparent pictures, for formats without transparency.
        max_pixels: pictures with more pixels are refused.
    """

    format: str | None = None
    quality: int | None = None
    strip: bool = False
    tone_map: bool = False
    overwrite: bool = False
    make_folders: bool = False
    max_pixels: int = MAX_PIXELS
    background: tuple[float, float, float] | None = None


def prepared(picture: Picture, saving: Saving, target: Path, format: str) -> Picture:
    """A picture as it is upscaled for a format: without what it should not, or cannot, have.

    Raises: ImageError for transparency that the format cannot hold, if there is no background, and for colours that it
        cannot say.
    """
    if saving.strip:
        picture = without_metadata(picture)
    if saving.tone_map:
        picture = tone_mapped(picture)
    check_format(target, height=1, width=1, space=picture.space, format=format)
    if picture.alpha is None or holds_alpha(format):
        return picture
    if saving.background is not None:
        return flattened(picture, saving.background)
    if is_opaque(picture.alpha):
        return replace(picture, alpha=None)
    raise ImageError(
        f"{one_line(target)}: {format} cannot hold transparency; write PNG, WebP, TIFF or AVIF, or choose a "
        "colour behind the picture, like `background=white`"
    )


def colour(text: str | None) -> tuple[float, float, float] | None:
    """Red, green and blue in [0, 1] of a colour by name or in numbers. Raises: UsageError for anything else."""
    from PIL import ImageColor

    if text is None:
        return None
    try:
        channels = ImageColor.getrgb(text)
    except ValueError:
        channels = ()  # type: ignore[assignment]
    if len(channels) != 3:
        raise UsageError(f"`background={text}`: expected a colour like white, #ff8000 or rgb(255,128,0)")
    return channels[0] / 255, channels[1] / 255, channels[2] / 255


def deciding(upscaler: Upscaler, saving: Saving) -> dict[str, Any]:
    """What decides about results beside the pictures: JSON values, equal for equal results.

    The budget is left out: it decides where pictures are cut, and a user who continues with a smaller budget after
    running out of memory does not want to begin anew. Loads all networks of the model.
    """
    networks = [upscaler.models.cascade(scale).networks[0] for scale in upscaler.models.scales]
    return {
        "model": [identity(network) for network in networks],
        "size": {name: value for name, value in asdict(upscaler.size).items() if value is not None},
        "tile": upscaler.tile,
        "precision": upscaler.precision,
        "engine": upscaler.engine_name,
        "ensemble": upscaler.ensemble,
        "format": saving.format,
        "quality": saving.quality,
        "strip": saving.strip,
        "tone_map": saving.tone_map,
        "background": saving.background and list(saving.background),
    }
