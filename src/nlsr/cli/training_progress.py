"""What a training shows: a bar with loss, PSNR and remaining time, and a line per validation."""

import logging
import threading
import warnings
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from rich.progress import TextColumn

from nlsr.cli.progress import bar
from nlsr.train.module import Training
from nlsr.train.recipe import Recipe


class TrainingProgress(Callback):
    """One bar over all steps of the recipe."""

    def __init__(self, recipe: Recipe) -> None:
        self.progress = bar(TextColumn("loss {task.fields[loss]}  PSNR {task.fields[psnr]} dB"))
        self.steps, self.validate_every = recipe.training.steps, recipe.training.validate_every
        self.task = self.progress.add_task(recipe.name, total=self.steps, loss="-", psnr="-")

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if trainer.is_global_zero:
            self.progress.start()
            self.progress.update(self.task, completed=trainer.global_step)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, Training)
        step = trainer.global_step
        if not trainer.is_global_zero or module.accumulates(batch_idx):
            return
        if not self.progress.disable and step % 10 == 0:
            self.progress.update(self.task, completed=step, loss=f"{module.shown['loss']:.4f}")
        if step % self.validate_every == 0 or step == self.steps:
            name, score = next(iter(module.scores.items()))
            self.progress.update(self.task, psnr=f"{score:.3f}")
            self.progress.console.print(
                f"step {step}/{self.steps}  {module.seconds / 60:.1f} min  "
                f"loss {module.shown['loss']:.4f}  {name} {score:.3f} dB"
            )

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.progress.stop()

    def on_exception(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self.progress.stop()


def quiet() -> None:
    """Keep off the terminal what Lightning advises about hardware, loggers and loaders, and the trace of TensorBoard's
    thread when the disk is full, which is said in a line."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    threading.excepthook = _say_failed_thread


def _say_failed_thread(failed: threading.ExceptHookArgs) -> None:
    if not (isinstance(failed.exc_value, OSError) and type(failed.thread).__module__.startswith("tensorboard")):
        threading.__excepthook__(failed)
