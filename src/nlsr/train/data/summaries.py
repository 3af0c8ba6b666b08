"""What folders of training images hold, for people and programs: counts, sizes, qualities, what cannot be used."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlsr.images import one_line
from nlsr.tables import aligned
from nlsr.train.data.pairs import Entry, Pairs


def summary(pairs: Pairs, folders: Sequence[Path], *, patch_size: int) -> dict[str, Any]:
    """Plain values for JSON: one set of numbers per folder, and what to look at by name.

    Args:
        folders: that were prepared.
        patch_size: low-res side of a training patch; an image that holds none at any of its sizes is too small.
    """
    small = [entry for entry in pairs.entries if not any(min(size) >= patch_size for size in entry.sizes)]
    return {
        "scale": pairs.scale,
        "patch_size": patch_size,
        "folders": [_numbers(folder, [e for e in pairs.entries if folder in e.path.parents]) for folder in folders],
        "images": len(pairs.entries),
        "pairs": len(pairs),
        "too_small": [_name(entry) for entry in small],
        "duplicates": [[_name(entry) for entry in same] for same in _duplicates(pairs.entries)],
        "left_out": list(pairs.left_out),
        "kept_in": str(pairs.entries[0].file.parent),
        "kept_megabytes": round(sum(entry.file.stat().st_size for entry in pairs.entries) / 1e6, 1),
    }


def table(found: dict[str, Any]) -> str:
    """The same in lines."""
    columns = [
        "folder",
        "images",
        "megapixels",
        "smallest",
        "median",
        "largest",
        "grey",
        "deeper",
        "alpha",
        "JPEG quality",
    ]
    rows = [
        [_cell(column, folder[column.replace(" ", "_").lower()]) for column in columns] for folder in found["folders"]
    ]
    lines = [*aligned([columns, *rows]), "", f"{found['pairs']} pairs of {found['images']} images at x{found['scale']}"]
    lines += [f"kept in {one_line(found['kept_in'])}, {found['kept_megabytes']:,} MB"]
    patch = f"{found['patch_size']}x{found['patch_size']}"
    lines += [f"too small for a patch of {patch} low-res pixels: {name}" for name in found["too_small"]]
    lines += [f"equal files: {', '.join(names)}" for names in found["duplicates"]]
    return "\n".join(lines)


def _numbers(folder: Path, entries: list[Entry]) -> dict[str, Any]:
    facts = sorted((entry.facts for entry in entries), key=lambda one: one.height * one.width)
    sizes = [[one.width, one.height] for one in facts]
    qualities = [one.quality for one in facts if one.quality is not None]
    return {
        "folder": one_line(folder),
        "images": len(facts),
        "megapixels": round(sum(one.height * one.width for one in facts) / 1e6, 2),
        "smallest": sizes[0] if sizes else None,
        "median": sizes[len(sizes) // 2] if sizes else None,
        "largest": sizes[-1] if sizes else None,
        "grey": sum(one.grey for one in facts),
        "deeper": sum(one.depth > 8 for one in facts),
        "alpha": sum(one.alpha for one in facts),
        "jpeg_quality": {"files": len(qualities), "lowest": min(qualities), "median": statistics.median_low(qualities)}
        if qualities
        else None,
    }


def _duplicates(entries: Sequence[Entry]) -> list[list[Entry]]:
    same: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        same[entry.facts.sha256].append(entry)
    return [found for found in same.values() if len(found) > 1]


def _name(entry: Entry) -> str:
    return one_line(entry.path)


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if column == "JPEG quality":
        return f"lowest {value['lowest']}, median {value['median']}, {value['files']} files"
    return "×".join(map(str, value)) if isinstance(value, list) else str(value)
