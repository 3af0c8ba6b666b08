"""Optimisers and schedules of a recipe. Knows nothing of the loop."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from nlsr.extras import require
from nlsr.train.muon import Muon
from nlsr.train.recipe import Recipe, TrainingSection


def build_optimizer(parameters: Iterable[nn.Parameter], settings: TrainingSection) -> Optimizer:
    """The optimiser of a recipe, in training mode.

    Raises: UsageError if the library of the schedule-free one is missing.
    """
    options: dict[str, Any] = dict(lr=settings.learning_rate, betas=settings.betas, eps=settings.eps)
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, **options)
    if settings.optimizer == "muon":
        return Muon(parameters, **options)
    options["weight_decay"] = settings.weight_decay
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)
    require("schedulefree", extra="train")
    from schedulefree import AdamWScheduleFree

    # Its warm-up also weighs its average, so that it must know of it.
    optimizer = AdamWScheduleFree(parameters, warmup_steps=settings.warmup_steps, **options)
    optimizer.train()
    return optimizer


def build_schedule(optimizer: Optimizer, recipe: Recipe) -> LambdaLR:
    """Sets the learning rate of each step; constant for a schedule-free optimiser, which warms up by itself."""
    if recipe.training.optimizer == "schedule-free":
        return LambdaLR(optimizer, lambda step: 1.0)
    return LambdaLR(optimizer, lambda step: rate(step, recipe))


def rate(step: int, recipe: Recipe) -> float:
    """The factor of the learning rate: linear warm-up, then a cosine down to `final_rate`, once or in cycles; or
    `factor` at each milestone; or 1."""
    settings = recipe.training
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "multistep":
        return settings.factor ** sum(step >= milestone for milestone in settings.milestones)
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    turns = min(done, 1) * settings.cycles
    turned = turns - min(int(turns), settings.cycles - 1)
    return settings.final_rate + (1 - settings.final_rate) * (1 + math.cos(math.pi * turned)) / 2


@contextmanager
def averaged(optimizer: Any) -> Iterator[None]:
    """Inside, the weights are those that a schedule-free optimiser evaluates; afterwards, bit for bit those it trains.

    Its own way back from evaluation to training mode rounds, so that a run would depend on when it was validated.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    trained = [weight.detach().clone() for weight in weights]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            for weight, before in zip(weights, trained, strict=True):
                weight.copy_(before)
