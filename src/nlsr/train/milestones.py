"""Validation, records and checkpoints every so many steps and at the end; a checkpoint when the run is stopped."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from nlsr import interrupts
from nlsr.errors import Interrupted, NlsrError, TrainingError
from nlsr.networks import Network
from nlsr.train.checkpoints import Checkpoints
from nlsr.train.module import Training
from nlsr.train.optimizers import rate
from nlsr.train.recipe import CHECKPOINT
from nlsr.train.records import LOG_EVERY, Log, add_to_curve, plot_curve, sample_sheet, write_sample
from nlsr.weights import save_network

BEST = "best.safetensors"


class Milestones(Callback):
    """What happens between steps, after the weights changed."""

    def __init__(self, folder: Path, checkpoints: Checkpoints) -> None:
        self.folder, self.checkpoints = folder, checkpoints
        self.asked_to_stop = False
        self._signals = {signal.SIGINT, signal.SIGTERM, *interrupts.stop_signals()}
        self.saved_step: int | None = None
        self.tensorboard: Log | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, being interrupted or terminated stops after the step in hand, twice at once.

        Raises: Interrupted for a run that stopped at once.
        """
        in_main_thread = threading.current_thread() is threading.main_thread()
        before = {number: signal.getsignal(number) for number in self._signals if in_main_thread}
        try:
            yield
        except (KeyboardInterrupt, SystemExit):  # Lightning turns the one into the other
            raise Interrupted(self.how_to_continue()) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def how_to_continue(self) -> str:
        """Said to someone who stopped a run."""
        if self.saved_step is None:
            return "stopped before anything was saved; start again with the same command"
        return f"stopped; step {self.saved_step} is saved, continue from it by adding `resume` to the same command"

    def on_train_start(self, trainer: lightning.Trainer, module: Training) -> None:  # type: ignore[override]
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:  # here, as Lightning has set its own by now
                signal.signal(number, self._stop)
        if trainer.global_step:
            self.saved_step = trainer.global_step
        if trainer.is_global_zero:
            self.tensorboard = Log(self.folder, trainer.global_step)
        self.since, self.started = trainer.global_step, time.monotonic()

    def _stop(self, number: int, _: object) -> None:
        interrupts.note(number)
        if self.asked_to_stop:
            raise KeyboardInterrupt
        self.asked_to_stop = True

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: lightning.Trainer, module: Training, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if module.accumulates(batch_idx):
            return
        step, settings = trainer.global_step, module.recipe.training
        if self.tensorboard and step % LOG_EVERY == 0:
            terms = {f"loss/{name}": float(term) for name, term in module.step.terms.items()}
            self.tensorboard.numbers(step, terms | module.shown | {"rate": _rate(trainer, module)})
        validates = step % settings.validate_every == 0 or step == settings.steps
        stops = trainer.strategy.reduce_boolean_decision(self.asked_to_stop, all=False)
        if not validates and not stops:
            return
        now = time.monotonic()
        module.seconds += now - self.started
        pace = (step - self.since) / (now - self.started)
        problems = []
        if validates:
            module.shown = {name: _mean_of_ranks(trainer, value) for name, value in module.shown.items()}
            network = module.evaluated()
            problems += self._on_main_process(trainer, lambda: self._validate(trainer, module, network, pace))
        problems += self._save(trainer, step)  # also if validating failed: the steps are good
        if problems:
            raise TrainingError(f"step {step}: {'; '.join(problems)}; {self._what_is_safe()}")
        trainer.should_stop = stops
        self.since, self.started = step, time.monotonic()

    def _validate(self, trainer: lightning.Trainer, module: Training, network: Network, pace: float) -> None:
        """Score the evaluated weights, and write down what a person may want to see."""
        step, recipe = trainer.global_step, module.recipe
        score = module.score(network)
        if recipe.training.keep_best and score > module.best:
            save_network(self.folder / BEST, network, card={"step": step, "psnr": round(score, 3)})
        module.best = max(module.best, score)
        numbers = {"psnr": score, "rate": _rate(trainer, module), **module.shown, "steps_per_second": pace}
        numbers |= module.network.fit(module.step.observed[-1])
        texts = {name: f"{value:.4g}" if name == "rate" else f"{value:.4f}" for name, value in numbers.items()}
        row = {"step": str(step), "hours": f"{module.seconds / 3600:.4f}", "loss": f"{module.shown['loss']:.5f}"}
        add_to_curve(self.folder / "curve.csv", row | {name: text for name, text in texts.items() if name not in row})
        sample = sample_sheet(*module.sample(network), scale=network.scale, caption=recipe.name)
        write_sample(self.folder / "samples" / f"step-{step:07}.png", sample)
        if step == recipe.training.steps:
            plot_curve(self.folder, title=recipe.name)
        if self.tensorboard:
            self.tensorboard.numbers(step, numbers)
            self.tensorboard.picture(step, sample)

    def _save(self, trainer: lightning.Trainer, step: int) -> list[str]:
        trainer.save_checkpoint(self.folder / CHECKPOINT)
        problems = self._on_main_process(trainer, self.checkpoints.check)
        if not problems:
            self.saved_step = step
        return problems

    def _on_main_process(self, trainer: lightning.Trainer, work: Callable[[], None]) -> list[str]:
        """Do something that may fail on one process; what went wrong, known to all, so that none waits for ever."""
        problem = ""
        if trainer.is_global_zero:
            try:
                work()
            except (NlsrError, OSError) as error:
                problem = str(error)
        problem = trainer.strategy.broadcast(problem)
        return [problem] if problem else []

    def _what_is_safe(self) -> str:
        if self.saved_step is None:
            return "nothing is saved yet; mend that and start again"
        return f"the checkpoint of step {self.saved_step} is intact: mend that, then continue from it with `resume`"

    def on_exception(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._close()

    def _close(self) -> None:
        if self.tensorboard:
            self.tensorboard.close()
            self.tensorboard = None


def _rate(trainer: lightning.Trainer, module: Training) -> float:
    """The learning rate of the last step; a schedule-free optimiser keeps what its warm-up made of it."""
    warmed_up = trainer.optimizers[0].param_groups[0].get("scheduled_lr")
    settings = module.recipe.training
    return warmed_up or settings.learning_rate * rate(trainer.global_step - 1, module.recipe)


def _mean_of_ranks(trainer: lightning.Trainer, value: float) -> float:
    return float(trainer.strategy.reduce(torch.tensor(value, device=trainer.strategy.root_device), reduce_op="mean"))
