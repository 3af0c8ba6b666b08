"""What a teacher makes of every training image, once, in files beside the decoded images. Knows nothing of recipes.

A file belongs to an image of the cache and to the teacher's weights. It names the low-res images that it was made of
and holds a checksum, so that one that is stale or damaged is noticed and made again. It has its name only when it is
complete: an interrupted run loses what was in hand and nothing else.
"""

import json
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from nlsr.errors import ImageError
from nlsr.files import remove_all_abandoned, replacing
from nlsr.images import one_line
from nlsr.networks import Network
from nlsr.report import Report
from nlsr.train.data.pairs import Entry, Pairs, checksum, opened
from nlsr.upscale import Upscaler
from nlsr.upscale.identity import identity


def teach(pairs: Pairs, teacher: Network, *, cache: Path, device: str = "cpu", report: Report | None = None) -> Pairs:
    """The same pairs with what the teacher makes of each low-res image, in 8 bits.

    Args:
        teacher: enlarges by the scale of the pairs; whole images as `Upscaler` does, in bf16 on processors made for it.
        cache: the folder of the decoded images.
        device: where the teacher runs.
        report: called with the number of images done and the number of all.
    Raises: ImageError if the cache cannot be written.
    """
    folder, digest = cache / "taught", identity(teacher)
    upscaler = Upscaler(teacher, device=device)
    entries: list[Entry] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_all_abandoned(folder)
        for done, entry in enumerate(pairs.entries):
            if report:
                report(done, len(pairs.entries))
            file = folder / f"{entry.file.stem}-{digest[:16]}.safetensors"
            if not _is_sound(file, entry):
                _make(file, entry, upscaler)
            entries.append(replace(entry, taught=file))
        if report:
            report(len(entries), len(entries))
    except OSError as error:
        raise ImageError(
            f"{one_line(folder)}: the teacher's enlargements cannot be written ({error.strerror}); {len(entries)} of "
            f"{len(pairs.entries)} are there and stay; free some space or choose another folder with `cache`, then "
            "repeat the command"
        ) from error
    return Pairs(entries, pairs.scale, pairs.left_out, teacher=digest)


def _is_sound(file: Path, entry: Entry) -> bool:
    """Whether a file is there, whole, and made of what the cache holds of the image now."""
    try:
        targets, metadata = opened(file)
        about = json.loads(metadata["nlsr"])
        return about == {"made_of": checksum(_low_res(entry)), "checksum": checksum(targets)}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        return False


def _low_res(entry: Entry) -> dict[str, Tensor]:
    return {name: image for name, image in opened(entry.file)[0].items() if name.startswith("low")}


def _make(file: Path, entry: Entry, upscaler: Upscaler) -> None:
    low_res = _low_res(entry)
    targets = {name.replace("low", "taught"): upscaler(image).contiguous() for name, image in low_res.items()}
    about = {"made_of": checksum(low_res), "checksum": checksum(targets)}
    with replacing(file) as content:
        content.write(save(targets, {"nlsr": json.dumps(about)}))
