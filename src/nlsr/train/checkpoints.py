"""Checkpoints of a run: written whole or not at all, and of the same run or refused."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor

from nlsr.errors import CheckpointError, RecipeError
from nlsr.networks import PRESETS
from nlsr.renamed import FORMER_PRESETS
from nlsr.train.data import Pairs
from nlsr.train.recipe import NetworkSection, Recipe
from nlsr.weights.checkpoint import write_atomically

FREE = {"training.validate_every", "training.keep_best", "gaps"}
"""Keys that may change when a run is resumed: its weights do not depend on them."""


class Checkpoints(TorchCheckpointIO):
    """Writes under a temporary name, flushes to the disk, renames. Reads without running code."""

    problem: CheckpointError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Does not raise, as other processes may wait; `check` does."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            write_atomically(Path(path), content.getbuffer())
        except CheckpointError as error:
            self.problem = error

    def check(self) -> None:
        """Raises: CheckpointError if the last file could not be written; the former one is then untouched."""
        if self.problem is not None:
            raise self.problem

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Raises: CheckpointError if the file is damaged or no checkpoint of ours."""
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
        except Exception as error:  # unpickling rubbish can fail in any way
            raise CheckpointError(
                f"{path}: expected a checkpoint of nlsr train, found a damaged or foreign file; start again without it"
            ) from error
        if not isinstance(checkpoint, dict) or "nlsr" not in checkpoint:
            raise CheckpointError(f"{path}: expected a checkpoint of nlsr train, found another file; start without it")
        return checkpoint


def check_same_run(recipe: Recipe, pairs: Pairs, saved: dict[str, Any]) -> None:
    """Raises: RecipeError that names every key in which the checkpoint's recipe differs, and what to do."""
    try:
        former = Recipe.model_validate_json(saved["recipe"])
    except ValidationError as error:
        raise RecipeError("the checkpoint is of another version of nlsr; begin another run elsewhere") from error
    before, now = (_flat(one.model_dump(mode="json", exclude={"network"})) for one in (former, recipe))
    before |= _flat({"network": _completed(saved["network"]) if "network" in saved else _as_it_was(former.network)})
    now |= _flat({"network": sizes(recipe.network)})
    before["number of training images"], now["number of training images"] = saved["num_images"], len(pairs)
    before["weights of the teacher"], now["weights of the teacher"] = saved.get("teacher"), pairs.teacher
    changed = [key for key in sorted(before | now) if before.get(key) != now.get(key) and key not in FREE]
    if changed:
        differences = "; ".join(f"{key}: {before.get(key)} in the checkpoint, now {now.get(key)}" for key in changed)
        raise RecipeError(
            f"the checkpoint is of another run ({differences}); continue it as it began, or choose another folder"
        )


def sizes(network: NetworkSection) -> dict[str, Any]:
    """The preset of a network and every field of its config, which a checkpoint keeps: presets may change."""
    return {"preset": network.preset, **dataclasses.asdict(network.config())}


def _completed(saved: dict[str, Any]) -> dict[str, Any]:
    """`sizes` of a checkpoint, with the defaults of fields that came later: they are what was done before."""
    fields = dataclasses.fields(PRESETS[saved["preset"]](saved["scale"]))
    return {field.name: field.default for field in fields if field.name not in saved} | saved


def _as_it_was(network: NetworkSection) -> dict[str, Any]:
    """`sizes` of a checkpoint that does not say them."""
    former = FORMER_PRESETS.get(network.preset, {}) | (network.model_extra or {})
    return sizes(NetworkSection(preset=network.preset, scale=network.scale, **former))


def save_batch(folder: Path, parts: Sequence[Sequence[Tensor]], step: int, rank: int) -> Path:
    """Write the patches of this process at a step, low-res, high-res and perhaps taught; returns the file.

    Raises: CheckpointError if it cannot be written.
    """
    path = folder / f"not-finite-step-{step}-rank-{rank}.safetensors"
    whole = (torch.cat(tensors).cpu().contiguous() for tensors in zip(*parts, strict=True))
    write_atomically(path, save(dict(zip(("low_res", "high_res", "taught"), whole, strict=False))))
    return path


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
