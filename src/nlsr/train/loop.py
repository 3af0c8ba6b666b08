"""The training loop: Lightning's trainer with our module, milestones and checkpoints."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from nlsr.errors import Interrupted, ProcessLostError, UsageError
from nlsr.train.checkpoints import Checkpoints
from nlsr.train.data import Pairs
from nlsr.train.devices import Devices
from nlsr.train.milestones import Milestones
from nlsr.train.module import Training
from nlsr.train.recipe import CHECKPOINT, Recipe
from nlsr.weights import save_network


def fit(
    recipe: Recipe,
    pairs: Pairs,
    validation: Path,
    folder: Path,
    *,
    resume: bool,
    callbacks: Sequence[Callback] = (),
    sources: Sequence[str] = (),
    devices: Devices | None = None,
) -> Path:
    """Train to the end of the recipe and save the averaged weights with their card.

    Args:
        folder: where checkpoint, curve, pictures and weights go.
        resume: continue from the checkpoint in the folder.
        callbacks: Lightning callbacks, for progress.
        sources: names of the training folders, for the card.
        devices: how many, and how they share the work; by default one.
    Returns: the path of the weight file.
    Raises: Interrupted if the user or the system ended the run; what was done is then saved.
        UsageError if there are fewer devices, RecipeError if the checkpoint is of another run, CheckpointError if one
        cannot be read or written, ImageError or ShapeError if a validation image cannot be used, TrainingError if
        numbers are not finite any more.
    """
    devices = devices or Devices()
    if recipe.training.optimizer == "muon" and devices.strategy == "fsdp":
        raise UsageError("`strategy=fsdp`: muon needs whole weights on every device; take ddp or another optimizer")
    module = Training(recipe, pairs, validation, folder, resume=resume)
    folder.mkdir(parents=True, exist_ok=True)
    settings, checkpoints = recipe.training, Checkpoints()
    milestones = Milestones(folder, checkpoints)
    trainer = devices.trainer(
        default_root_dir=folder,
        max_steps=settings.steps,
        precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
        accumulate_grad_batches=settings.accumulate,
        callbacks=[milestones, *callbacks],
        plugins=[checkpoints],
        enable_checkpointing=False,
        use_distributed_sampler=False,  # each rank takes its part of the batch itself
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10**9,
    )
    try:
        with milestones.listening():
            trainer.fit(module, ckpt_path=folder / CHECKPOINT if resume else None, weights_only=True)
    except RuntimeError as error:
        if trainer.world_size > 1 and _says_that_one_is_gone(error):
            raise ProcessLostError(
                "another process of this training has ended or cannot be reached; the last checkpoint is intact, "
                "and the same command with `resume` continues from it"
            ) from error
        raise
    if module.global_step < settings.steps:
        raise Interrupted(milestones.how_to_continue())
    path, network = folder / f"{recipe.name}.safetensors", module.evaluated()
    if trainer.is_global_zero:
        save_network(path, network, card=card(module, sources, trainer.strategy.root_device))
    return path


def _says_that_one_is_gone(error: RuntimeError) -> bool:
    """In the words of gloo, or of torch for NCCL."""
    words = (
        "onnection closed",
        "onnection reset",
        "onnection refused",
        "roken pipe",
        "ead timed out",
        "imed out waiting",
    )
    return isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in words)


def card(module: Training, sources: Sequence[str], device: torch.device) -> dict[str, Any]:
    """What should be known about the weights."""
    return {
        "recipe": module.recipe.model_dump(mode="json"),
        "data": list(sources),
        **({"teacher": module.teacher} if module.teacher else {}),
        "steps": module.global_step,
        "hours": round(module.seconds / 3600, 2),
        "machine": f"{_machine(device)}, torch {torch.__version__}",
        "psnr": {name: round(score, 3) for name, score in module.scores.items()},
    }


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    accelerator = "" if device.type == "cpu" else f"{device.type}, "
    return f"{accelerator}{torch.get_num_threads()} threads, {platform.machine()}"
