"""What training by a recipe would do, in words: without data, without Lightning, without a step of training."""

import time
from collections.abc import Callable, Iterator, Sized
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nlsr.benchmark.networks import count_multiply_adds
from nlsr.errors import NlsrError
from nlsr.evaluate import PairFolder
from nlsr.memory import peak_memory, reset_peak
from nlsr.train.recipe import CHECKPOINT, DataSection, LossesSection, Recipe, Stage, TrainingSection
from nlsr.train.start import load_teacher, start_from
from nlsr.upscale.batch.sources import find_pictures
from nlsr.weights import load
from nlsr.weights.catalogue import available, downloads

CHEAP = 1e11
"""Multiply-adds that may be spent on measuring a step: seconds on a laptop."""
MEASURED_STEPS = 3
BACKWARD = 2
"""How many times as much as the forward pass the backward pass computes."""
OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "muon": "Muon", "schedule-free": "schedule-free AdamW"}


def explain(recipe: Recipe, *, data: Path, folder: Path) -> str:
    """Lines for people: network, data and what of it is missing, losses, schedule, cost, gaps.

    Args:
        data: folder that the recipe's data folders are in; only names of files are read.
        folder: the folder of the run.
    Raises: RecipeError if the network cannot be built, CheckpointError if weights that the recipe names do not fit.
    """
    lines = [("recipe", f"{recipe.name}, seed {recipe.seed}"), *_network(recipe), *_data(recipe, data)]
    lines += [("loss", _losses(recipe.training.losses)), ("batches", _batches(recipe)), *_optimiser(recipe.training)]
    lines += [("run", _run(folder)), *_cost(recipe), *(("gap", gap) for gap in recipe.gaps)]
    return "\n".join(f"{label:<12}{text}" for label, text in lines)


Lines = Iterator[tuple[str, str]]
"""A word and what is said of it."""


def _network(recipe: Recipe) -> Lines:
    with FakeTensorMode():
        network = recipe.build_network()
    parameters = sum(weight.numel() for weight in network.parameters())
    side = recipe.training.stages[-1].patch_size
    counted = count_multiply_adds(recipe.build_network, side, side)
    yield (
        "network",
        f"{recipe.network.preset} x{recipe.network.scale}: {parameters:,} parameters, "
        f"{counted / 1e9:.3g} G multiply-adds per patch of {side}x{side}",
    )
    if (start := recipe.start) is not None:
        yield "start", _model(start, lambda: start_from(recipe.build_network(), start))
    if (teacher := recipe.training.teacher) is not None:
        yield "teacher", _model(teacher, lambda: load_teacher(recipe))


def _model(model: str, check: Callable[[], object]) -> str:
    if Path(model).suffix and not Path(model).exists():
        return f"{model}: missing"
    if model in downloads() and model not in available():
        return f"{model}: missing; get it with: nlsr weights get {model}"
    check()
    network = load(model)
    return f"{model}: {type(network).__name__} x{network.scale}"


def _data(recipe: Recipe, data: Path) -> Lines:
    folders = recipe.data
    find_train = _directly_in if folders.low_res else _anywhere_in
    for name in folders.train:
        yield "train", f"{data / name}: {_images(data / name, find_train)}"
    for name in folders.low_res or ():
        yield "low-res", f"{data / name}: {_images(data / name, _directly_in)}"
    yield "validation", f"{data / folders.validation}: {_images(data / folders.validation, _directly_in)}"
    yield "patches", ", ".join(_patches(folders))


def _images(folder: Path, find_in: Callable[[Path], Sized]) -> str:
    if not folder.is_dir():
        return "missing in the folder of all data"
    try:
        return f"{len(find_in(folder))} images"
    except NlsrError:
        return "no image in it"


def _anywhere_in(folder: Path) -> Sized:
    return find_pictures([folder]).sources


def _directly_in(folder: Path) -> Sized:
    return PairFolder(folder, scale=1)


def _patches(data: DataSection) -> Iterator[str]:
    """How low-res patches come about and how pairs are varied."""
    low_res, varied = data.degradation, data.augmentation
    if low_res is None:
        yield "low-res as given" if data.low_res else "bicubic low-res"
    else:
        yield f"{1 - low_res.clean:.0%} degraded, the others bicubic"
    if data.source_scales != [1.0]:
        yield f"images at sizes {', '.join(f'{size:g}' for size in data.source_scales)}"
    if varied.flips_and_turns:
        yield "flipped and turned"
    if varied.zoom:
        yield "zoomed {:g} to {:g}".format(*varied.zoom)
    for share, words in (
        (varied.permute_colours, "with colours permuted"),
        (varied.cut_mix, "with a rectangle of another"),
        (varied.cut_clean, "of the degraded with a plain rectangle"),
    ):
        if share:
            yield f"{share:.0%} {words}"


def _losses(losses: LossesSection) -> str:
    weights = {name: weight for name, weight in losses if weight and name != "attention_after"}
    words = " + ".join(f"{'' if weight == 1 else f'{weight:g} '}{name}" for name, weight in weights.items())
    return words + (f", attention from step {losses.attention_after:,}" if losses.attention_after else "")


def _batches(recipe: Recipe) -> str:
    settings, scale = recipe.training, recipe.network.scale
    stages = settings.stages
    lasts = [stage.first for stage in stages[1:]] + [settings.steps]
    patches = sum(stage.batch_size * (last - stage.first) for stage, last in zip(stages, lasts, strict=True))
    parts = f", each in {settings.accumulate} parts" if settings.accumulate > 1 else ""
    joined = f", {settings.joined_patches} joined for the attention" if settings.joined_patches > 1 else ""
    return (
        "; ".join(_stage(stage, scale, begins=len(stages) > 1) for stage in stages)
        + f"{joined}{parts}; {settings.steps:,} steps, {patches:,} patches"
    )


def _stage(stage: Stage, scale: int, *, begins: bool) -> str:
    side, begin = stage.patch_size, f"from step {stage.first:,} " if begins else ""
    return f"{begin}{stage.batch_size} patches of {side}x{side} ({side * scale}x{side * scale} high-res)"


def _optimiser(settings: TrainingSection) -> Lines:
    words = [f"{OPTIMIZERS[settings.optimizer]} {settings.betas}, eps {settings.eps:g}"]
    words += [f"weight decay {settings.weight_decay:g}"] if settings.weight_decay else []
    words += [f"gradients no longer than {settings.gradient_clip:g}"] if settings.gradient_clip else []
    words += [f"weights averaged with decay {settings.average_decay:g}"] if settings.average_decay else []
    words += [f"new random directions every {settings.redraw_every:,} steps"] if settings.redraw_every else []
    yield "optimizer", ", ".join([*words, settings.precision, *(["compiled"] if settings.compile else [])])
    warm_up = f"in {settings.warmup_steps:,} steps to " if settings.warmup_steps else ""
    yield "schedule", f"{warm_up}{settings.learning_rate:g}, {_fall(settings)}"
    best = " and the best" if settings.keep_best else ""
    yield "saves", f"validation and checkpoint every {settings.validate_every:,} steps; keeps the last{best}"


def _fall(settings: TrainingSection) -> str:
    if settings.schedule == "constant":
        return "constant"
    if settings.schedule == "multistep":
        return f"times {settings.factor:g} at steps {', '.join(f'{step:,}' for step in settings.milestones)}"
    again = "" if settings.cycles == 1 else f" {settings.cycles} times"
    return f"then{again} along a cosine to {settings.learning_rate * settings.final_rate:.3g}"


def _run(folder: Path) -> str:
    return f"{folder}: " + ("holds a run; continue it with `resume`" if (folder / CHECKPOINT).exists() else "new")


def _cost(recipe: Recipe) -> Lines:
    settings, stage = recipe.training, recipe.training.stages[-1]
    part = stage.batch_size // settings.accumulate
    counted = count_multiply_adds(recipe.build_network, stage.patch_size, stage.patch_size) * stage.batch_size
    if counted * (1 + BACKWARD) * MEASURED_STEPS / settings.accumulate > CHEAP:
        yield "cost", f"{(1 + BACKWARD) * counted / 1e9:,.0f} G multiply-adds a step; too many to be measured here"
        return
    try:
        seconds, memory = _measure(recipe, part, stage.patch_size)
    except (NlsrError, RuntimeError, MemoryError) as error:
        yield "cost", f"a step fails here: {error}"
        return
    threads, seconds = torch.get_num_threads(), seconds * settings.accumulate
    yield (
        "cost",
        f"{seconds / threads:.2g} s a step, {seconds / threads * settings.steps / 3600:.3g} hours in all, where "
        f"nothing else runs: measured were {seconds:.2g} processor seconds a step on {threads} "
        f"thread{'s' if threads > 1 else ''} here; {memory / 2**20:,.0f} MiB beside the data",
    )


def _measure(recipe: Recipe, batch_size: int, side: int) -> tuple[float, float]:
    """Median processor seconds of a step, of all threads, and peak bytes, of random patches.

    The clock would count what other programs do meanwhile.
    """
    before = reset_peak()
    network, scale = recipe.build_network().to(memory_format=torch.channels_last), recipe.network.scale
    generator = torch.Generator().manual_seed(0)
    low_res = torch.rand(batch_size, 3, side, side, generator=generator).contiguous(memory_format=torch.channels_last)
    high_res = torch.rand(batch_size, 3, side * scale, side * scale, generator=generator)
    optimizer = torch.optim.Adam(network.parameters())
    times = []
    for _ in range(MEASURED_STEPS):
        started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.training.precision == "bf16"):
            trace = network.trace(low_res, draws=generator)
        (trace.upscaled.float() - high_res).abs().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        network.learn(network.observe(trace), generator=generator)
        times.append(time.process_time() - started)
    return sorted(times)[len(times) // 2], peak_memory() - before
