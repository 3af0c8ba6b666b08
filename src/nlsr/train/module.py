"""What is trained: a network, the average of its weights, and how a step changes both. Plain functions for what a step
does, Lightning's hooks around them."""

import math
import signal
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from nlsr.errors import RecipeError, TrainingError
from nlsr.evaluate import Pair, PairFolder, evaluate
from nlsr.networks import Network
from nlsr.networks.network import Observed, Trace
from nlsr.train.checkpoints import check_same_run, save_batch, sizes
from nlsr.train.course import Course, Numbers
from nlsr.train.data import Pairs, Places, Resident, fits
from nlsr.train.likeness import likeness
from nlsr.train.losses import PIXEL_LOSSES
from nlsr.train.optimizers import averaged, build_optimizer, build_schedule
from nlsr.train.recipe import Recipe
from nlsr.train.start import about_teacher, images_to_validate, start_from

SMOOTHING = 0.02
"""Share of the latest step in the loss and the gradient's norm that are shown."""


@dataclass
class Step:
    """What the parts of one batch leave for those that act when the step is complete."""

    batch: list[Sequence[Tensor]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    observed: list[Observed] = field(default_factory=list)
    """What operators learn from."""
    terms: dict[str, Tensor] = field(default_factory=dict)
    """What the loss of the last part was made of."""


class Training(lightning.LightningModule):
    """A network, the average of its weights, and how a step changes both."""

    def __init__(self, recipe: Recipe, pairs: Pairs, validation: Path, folder: Path, *, resume: bool) -> None:
        """
        Args:
            resume: a checkpoint will be loaded, so that the weights to start from need not be there any more.
        Raises: RecipeError, CheckpointError if networks or weights that the recipe names do not fit, ImageError or
            ShapeError if a validation image cannot be used.
        """
        super().__init__()
        if recipe.training.teacher is not None and pairs.teacher is None:
            raise RecipeError("training.teacher: the pairs have no answers of it; ask with nlsr.train.data.teach")
        self.recipe, self.pairs, self.validation, self.folder = recipe, pairs, validation, folder
        self.teacher = about_teacher(recipe) if recipe.training.teacher else None
        self.network: Network = recipe.build_network().to(memory_format=torch.channels_last)
        self.validated = images_to_validate(validation, self.network.scale)
        if recipe.start is not None and not resume:
            start_from(self.network, recipe.start)
        self.average: Network = deepcopy(self.network).requires_grad_(False).eval()
        self.is_divided = False
        self.seconds = 0.0
        self.shown = {"loss": math.nan, "gradient_norm": math.nan}
        self.scores: dict[str, float] = {}
        self.best = -math.inf
        self.step = Step()

    def configure_model(self) -> None:
        """Divide both networks among the devices, where the strategy wants that."""
        if isinstance(self.trainer.strategy, ModelParallelStrategy) and not self.is_divided:
            for network in (self.network, self.average):
                divide(network, self.trainer.strategy.device_mesh["data_parallel"])
            self.is_divided = True

    def on_fit_start(self) -> None:
        self.trace = compiled(self.network.trace) if self.recipe.training.compile else self.network.trace

    def train_dataloader(self) -> DataLoader[Any]:
        settings = self.recipe.training
        resident = self.recipe.data.plain and fits(self.pairs, self.device)
        self.resident = Resident(self.pairs, self.device) if resident else None
        self.course = Course(
            self.recipe, self.pairs, cut=not resident, rank=self.global_rank, ranks=self.trainer.world_size
        )
        num_workers = self.recipe.data.num_workers(self.trainer.num_devices)
        numbers = Numbers(self.global_step * settings.accumulate, settings.steps * settings.accumulate)
        return DataLoader(
            self.course,
            batch_size=None,
            sampler=numbers,
            num_workers=num_workers,
            # Only such workers does Lightning end when training fails; others, deaf as they are, would live on.
            persistent_workers=num_workers > 0,
            worker_init_fn=_deaf,
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Patches, which were cut before, or are cut here of images that lie on the device."""
        if self.resident is None:
            return batch
        return self.resident.cut(Places(*batch), self.course.patch_size(self.global_step))

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.network.parameters(), self.recipe.training)
        schedule = build_schedule(optimizer, self.recipe)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Sequence[Tensor], index: int) -> Tensor:
        """The loss of one part of a batch."""
        if index % self.recipe.training.accumulate == 0:
            self.step = Step()
        low_res, high_res, *taught = batch
        draws = step_generator(self.recipe, self.global_step, "draws")
        trace = self.trace(low_res.contiguous(memory_format=torch.channels_last), draws=draws)
        terms, weights = self._terms(trace, high_res, *taught), self.recipe.training.losses
        loss = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
        self.step.terms = {name: term.detach() for name, term in terms.items()}
        self.step.observed.append(self.network.observe(trace))
        self.step.batch.append(batch)
        self.step.losses.append(loss.detach())
        return loss

    def _terms(self, trace: Any, high_res: Tensor, taught: Tensor | None = None) -> dict[str, Tensor]:
        """Those whose weight is not zero at this step, in float32."""
        weights = self.recipe.training.losses
        upscaled = trace.upscaled.to(high_res.dtype)
        terms = {name: loss(upscaled, high_res) for name, loss in PIXEL_LOSSES.items() if getattr(weights, name)}
        if weights.attention and self.global_step >= weights.attention_after:
            terms["attention"] = self.network.attention_losses(trace).mean()
        if weights.likeness:
            found = [likeness(affinity, high_res, self.network.scale) for affinity in trace.affinities]
            terms["likeness"] = torch.stack(found).mean()
        if taught is not None:
            terms["distillation"] = F.l1_loss(upscaled, taught)
        return terms

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient of the whole batch, and let nothing but finite numbers reach the weights.

        Raises: TrainingError if the loss or the gradient is not finite; the batch is then in the run's folder.
        """
        longest = self.recipe.training.gradient_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), longest)
        loss = torch.stack(self.step.losses).mean()
        values = {"loss": float(loss), "gradient_norm": float(getattr(norm, "full_tensor", lambda: norm)())}
        finite = all(math.isfinite(value) for value in values.values())
        if not self.trainer.strategy.reduce_boolean_decision(finite):  # on any device: all end together
            kept = save_batch(self.folder, self.step.batch, self.global_step, self.global_rank)
            raise TrainingError(
                f"the loss ({values['loss']:g}) or gradient ({values['gradient_norm']:g}) of step {self.global_step} "
                f"is not finite; its batch is in {kept}; begin another run, of another name, "
                "with a lower training.learning_rate or training.gradient_clip; it can start from weights of this one "
                "(start in the recipe)"
            )
        for name, value in values.items():
            before = self.shown[name]
            self.shown[name] = value if math.isnan(before) else before + SMOOTHING * (value - before)

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        """What belongs to a step beside the gradient's: clusters learn, directions change, the average follows."""
        super().optimizer_step(*args, **options)
        step, settings = self.global_step + 1, self.recipe.training
        self.network.learn(*self.step.observed, generator=step_generator(self.recipe, step, "clusters"))
        if settings.redraw_every and step % settings.redraw_every == 0:
            self.network.redraw(step_generator(self.recipe, step, "directions"))
        if settings.optimizer != "schedule-free":
            update_average(self.average, self.network, average_decay(step, self.recipe))

    def accumulates(self, index: int) -> bool:
        """Whether more parts of the batch follow the part of this number."""
        return (index + 1) % self.recipe.training.accumulate != 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["nlsr"] = {
            "recipe": self.recipe.model_dump_json(),
            "network": sizes(self.recipe.network),
            "num_images": len(self.pairs),
            "teacher": self.pairs.teacher,
            "seconds": self.seconds,
            "shown": self.shown,
            "scores": self.scores,
            "best": self.best,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["nlsr"]
        check_same_run(self.recipe, self.pairs, saved)
        self.seconds, self.shown = saved["seconds"], saved["shown"]
        self.scores, self.best = saved["scores"], saved["best"]

    def evaluated(self) -> Network:
        """The network that is validated and saved: averaged weights. All processes call it, the first may use it."""
        if self.recipe.training.optimizer == "schedule-free":
            with averaged(self.trainer.optimizers[0]):
                update_average(self.average, self.network, 0.0)
        return assembled(self.average, self.recipe) if self.is_divided else self.average

    def score(self, network: Network) -> float:
        """Mean PSNR of luma, in dB, on the validation set; remembered.

        Raises: TrainingError if an image is missing from the mean, which would be that of another set.
        """
        with torch.inference_mode():
            result = evaluate(upscale_with(network), self.validation, scale=network.scale)
        if result.failures:
            raise TrainingError(f"{self.validation / result.failures[0].name}: {result.failures[0].reason}")
        if [row.name for row in result.rows] != self.validated:
            raise TrainingError(f"{self.validation}: expected {', '.join(self.validated)}, as in the beginning")
        self.scores[result.data] = result.mean.psnr
        return result.mean.psnr

    def sample(self, network: Network) -> tuple[Pair, Tensor]:
        """The first validation image, and what the network makes of it."""
        pair = PairFolder(self.validation, scale=network.scale)[0]
        with torch.inference_mode():
            return pair, upscale_with(network)(pair.low_res)


def compiled(trace: Callable[..., Trace]) -> Callable[..., Trace]:
    """What torch.compile makes of it when it is called first. Calls raise TrainingError where it cannot."""
    whole = torch.compile(trace)
    from torch._dynamo.exc import TorchDynamoException  # what torch.compile imports, and nothing else should

    def run(*inputs: Any, **options: Any) -> Trace:
        try:
            return whole(*inputs, **options)
        except TorchDynamoException as error:
            reason = str(error).partition("\n")[0]
            raise TrainingError(
                f"training.compile: torch could not compile the network ({reason}); on a processor this takes a C++ "
                "compiler (install g++, or name one in the variable CXX); or train without it"
            ) from error

    return run


def _deaf(_: int) -> None:
    """In a loading process: an interrupted training finishes the step in hand, for which it may need a batch."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def divide(network: Network, mesh: DeviceMesh) -> None:
    """Divide the weights of a network among devices; each block is put together only while it is computed."""
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # all that can be divided yet
    for blocks in network.children():
        if isinstance(blocks, nn.ModuleList):
            for block in blocks:
                fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    register_fsdp_forward_method(network, "trace")


def assembled(network: Network, recipe: Recipe) -> Network:
    """A divided network as a whole one, on the CPU of the first process; all processes call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(network, options=options)
    whole = recipe.build_network()
    if state:  # elsewhere there is none
        whole.load_state_dict(state)
    return whole.eval()


def average_decay(step: int, recipe: Recipe) -> float:
    """Short at first, so that the average forgets the random start."""
    return min(recipe.training.average_decay, (1 + step) / (10 + step))


def step_generator(recipe: Recipe, step: int, purpose: Literal["draws", "clusters", "directions"]) -> torch.Generator:
    """Random draws of a step: a function of seed and step, equal on all ranks and after resuming."""
    offset = {"clusters": 0, "draws": 500_000_000, "directions": 250_000_000}[purpose]
    return torch.Generator().manual_seed(recipe.seed * 1_000_003 + step + offset)


@torch.no_grad()
def update_average(average: Network, network: Network, decay: float) -> None:
    """Move averaged parameters towards the network's; buffers are copied."""
    old, new = ([_own_part(weight) for weight in each.parameters()] for each in (average, network))
    torch._foreach_lerp_(old, new, 1 - decay)
    for buffer, latest in zip(average.buffers(), network.buffers(), strict=True):
        buffer.copy_(latest)


def _own_part(weight: Tensor) -> Tensor:
    """What of a weight lies on this device: all, unless weights are divided."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def upscale_with(network: Network) -> Callable[[Tensor], Tensor]:
    """A plain function from a low-res image to the upscaled one, clamped to [0, 1]."""
    weight = next(network.parameters())

    def upscale(low_res: Tensor) -> Tensor:
        low_res = low_res.to(weight.device, weight.dtype, memory_format=torch.channels_last)
        return network(low_res).float().clamp(0, 1).cpu()

    return upscale
