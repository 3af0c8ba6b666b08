"""The training loop: plain functions for what a step does, Lightning for everything around it."""

import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler

from nlsr.errors import RecipeError
from nlsr.evaluate import PairFolder, evaluate
from nlsr.networks import Network, Trace
from nlsr.train.data import Batches, Pairs
from nlsr.train.recipe import Recipe
from nlsr.weights import load, save_network

CHECKPOINT = "last.ckpt"


class Steps(Sampler[int]):
    """The steps that are left. Its length is that of the whole run, by which Lightning counts when it resumes."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last))

    def __len__(self) -> int:
        return self.last


class Training(lightning.LightningModule):
    """A network, the moving average of its weights, and how a step changes both."""

    def __init__(self, recipe: Recipe, pairs: Pairs, validation: Path) -> None:
        super().__init__()
        self.recipe, self.pairs, self.validation = recipe, pairs, validation
        self.network: Network = recipe.build_network().to(memory_format=torch.channels_last)
        if recipe.start is not None:
            start_from(self.network, recipe.start)
        self.average: Network = deepcopy(self.network).requires_grad_(False).eval()
        self.seconds = 0.0
        self.loss = torch.tensor(math.nan)
        self.scores: dict[str, float] = {}
        self._trace: Trace | None = None

    def train_dataloader(self) -> DataLoader[Any]:
        settings = self.recipe.training
        batches = Batches(
            self.pairs,
            patch_size=settings.patch_size,
            batch_size=settings.batch_size,
            seed=self.recipe.seed,
            degradation=self.recipe.data.degradation,
            rank=self.global_rank,
            ranks=self.trainer.world_size,
        )
        return DataLoader(
            batches,
            batch_size=None,
            sampler=Steps(self.global_step, settings.steps),
            # Degrading takes a tenth of a step, so it is done beside it; batches are the same in any process.
            num_workers=0 if self.recipe.data.degradation is None else 1,
        )

    def configure_optimizers(self) -> Any:
        settings = self.recipe.training
        optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate, betas=settings.betas)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, self.recipe))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        low_res, high_res = batch
        draws = step_generator(self.recipe, self.global_step, "draws")
        self._trace = self.network.trace(low_res.contiguous(memory_format=torch.channels_last), draws=draws)
        loss = F.l1_loss(self._trace.upscaled.float(), high_res)
        self.loss = torch.lerp(self.loss, loss.detach(), 0.02) if self.global_step else loss.detach()
        return loss

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        """What belongs to a step beside the gradient's: clusters learn, the average follows."""
        super().optimizer_step(*args, **options)
        assert self._trace is not None
        step = self.global_step + 1
        self.network.learn(self._trace, generator=step_generator(self.recipe, step, "clusters"))
        self._trace = None
        update_average(self.average, self.network, average_decay(step, self.recipe))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["nlsr"] = {
            "recipe": self.recipe.model_dump_json(),
            "seconds": self.seconds,
            "loss": float(self.loss),
            "scores": self.scores,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = Recipe.model_validate_json(checkpoint["nlsr"]["recipe"])
        if saved.network != self.recipe.network:
            raise RecipeError("the checkpoint is of another network: expected the recipe it was started with")
        self.seconds, self.scores = checkpoint["nlsr"]["seconds"], checkpoint["nlsr"]["scores"]
        self.loss = torch.tensor(checkpoint["nlsr"]["loss"])

    def validate_average(self) -> float:
        """Mean PSNR of luma, in dB, of the averaged weights."""
        with torch.inference_mode():
            result = evaluate(upscale_with(self.average), self.validation, scale=self.network.scale)
        return result.mean.psnr


@torch.no_grad()
def start_from(network: Network, model: str) -> None:
    """Copy every weight of another model that fits by name and shape: all but the upsampler, between scales.

    Raises: CheckpointError if there is no such model; RecipeError if not half of the network's weights fit.
    """
    given, own = load(model).state_dict(), network.state_dict()
    fitting = [name for name in own if name in given and given[name].shape == own[name].shape]
    if sum(own[name].numel() for name in fitting) < sum(tensor.numel() for tensor in own.values()) / 2:
        raise RecipeError(f"start: {model} fits in {len(fitting)} of {len(own)} tensors; name weights of this network")
    for name in fitting:
        own[name].copy_(given[name])


def rate(step: int, recipe: Recipe) -> float:
    """The factor of the learning rate: linear warm-up, then a cosine down to `final_rate`."""
    settings = recipe.training
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.final_rate + (1 - settings.final_rate) * (1 + math.cos(math.pi * min(done, 1))) / 2


def average_decay(step: int, recipe: Recipe) -> float:
    """Short at first, so that the average forgets the random start."""
    return min(recipe.training.average_decay, (1 + step) / (10 + step))


def step_generator(recipe: Recipe, step: int, purpose: Literal["draws", "clusters"]) -> torch.Generator:
    """Random draws of a step: a function of seed and step, equal on all ranks and after resuming."""
    offset = {"clusters": 0, "draws": 500_000_000}[purpose]
    return torch.Generator().manual_seed(recipe.seed * 1_000_003 + step + offset)


@torch.no_grad()
def update_average(average: Network, network: Network, decay: float) -> None:
    """Move averaged parameters towards the network's; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for old, new in zip(average.buffers(), network.buffers(), strict=True):
        old.copy_(new)


def upscale_with(network: Network) -> Callable[[Tensor], Tensor]:
    """A plain function from a low-res image to the upscaled one, clamped to [0, 1]."""
    device = next(network.parameters()).device

    def upscale(low_res: Tensor) -> Tensor:
        low_res = low_res.to(device, memory_format=torch.channels_last)
        return network(low_res).float().clamp(0, 1).cpu()

    return upscale


def fit(
    recipe: Recipe,
    pairs: Pairs,
    validation: Path,
    folder: Path,
    *,
    resume: bool,
    callbacks: list[Callback] | None = None,
    sources: list[str] | None = None,
) -> Path:
    """Train to the end of the recipe and save the averaged weights with their card.

    Args:
        folder: where checkpoint, curve and weights go.
        resume: go on from the checkpoint in the folder.
        callbacks: Lightning callbacks, for progress.
        sources: names of the training folders, for the card.
    Returns: the path of the weight file.
    """
    module = Training(recipe, pairs, validation)
    PairFolder(validation, scale=module.network.scale)  # what is wrong with it is said now, not at the first validation
    settings = recipe.training
    trainer = lightning.Trainer(
        default_root_dir=folder,
        max_steps=settings.steps,
        precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
        gradient_clip_val=settings.gradient_clip,
        callbacks=[Milestones(folder), *(callbacks or [])],
        enable_checkpointing=False,
        use_distributed_sampler=False,  # each rank takes its part of the batch itself
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10**9,
    )
    trainer.fit(module, ckpt_path=folder / CHECKPOINT if resume else None, weights_only=True)
    if module.global_step < settings.steps:
        raise KeyboardInterrupt
    path = folder / f"{recipe.name}.safetensors"
    if trainer.is_global_zero:
        save_network(path, module.average, card=card(module, sources or []))
    return path


class Milestones(Callback):
    """Every so many steps and at the end: score the averaged weights, add a line to the curve, save a checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.started = time.monotonic()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, Training)
        settings = module.recipe.training
        if trainer.global_step % settings.validate_every and trainer.global_step < settings.steps:
            return
        module.seconds += time.monotonic() - self.started
        if trainer.is_global_zero:
            score = module.scores[module.validation.name] = module.validate_average()
            line = f"{trainer.global_step},{module.seconds / 3600:.4f},{float(module.loss):.5f},{score:.4f}"
            add_to_curve(self.folder / "curve.csv", trainer.global_step, line)
        trainer.save_checkpoint(self.folder / f"{CHECKPOINT}.part")
        if trainer.is_global_zero:
            os.replace(self.folder / f"{CHECKPOINT}.part", self.folder / CHECKPOINT)
        self.started = time.monotonic()


def add_to_curve(curve: Path, step: int, line: str) -> None:
    """Append a line, after dropping those of this and later steps, which a resumed run writes again."""
    lines = curve.read_text().splitlines()[1:] if curve.exists() else []
    kept = [old for old in lines if int(old.split(",")[0]) < step]
    curve.write_text("\n".join(["step,hours,loss,psnr", *kept, line]) + "\n")


def card(module: Training, sources: list[str]) -> dict[str, Any]:
    """What should be known about the weights."""
    return {
        "recipe": module.recipe.model_dump(mode="json"),
        "data": sources,
        "steps": module.global_step,
        "hours": round(module.seconds / 3600, 2),
        "machine": f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}"
        if module.device.type == "cpu"
        else torch.cuda.get_device_name(module.device),
        "psnr": {name: round(score, 3) for name, score in module.scores.items()},
    }
