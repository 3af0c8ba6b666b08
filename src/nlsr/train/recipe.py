"""Training recipes: TOML files read into checked models. A wrong key is named with the nearest right one."""

import difflib
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from nlsr.attention import SharedAttention
from nlsr.errors import NlsrError, RecipeError, ShapeError
from nlsr.networks import PRESETS, build, preset_config
from nlsr.settings import parse_value
from nlsr.train.data import AugmentationSection, DegradationSection
from nlsr.train.section import Positive, Section, named_today

CHECKPOINT = "last.ckpt"
"""In the folder of a run."""


MOST_LOADERS = 8
"""Each makes some 25 degraded batches of eight patches of 32x32 in a second."""


class NetworkSection(BaseModel):
    """A preset, a scale, and any field of the network's config that should differ from the preset."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    preset: str
    """Name of a network, of those that `nlsr benchmark networks` measures."""
    scale: Literal[2, 3, 4]
    """How many times larger the network makes an image: 2, 3 or 4."""

    @model_validator(mode="before")
    @classmethod
    def _under_names_of_today(cls, values: Any) -> Any:
        preset = PRESETS.get(str(values.get("preset"))) if isinstance(values, dict) else None
        return named_today(type(preset(4)).__name__, values) if preset else values

    def config(self) -> Any:
        """Raises: RecipeError for an unknown preset or config field."""
        if self.preset not in PRESETS:
            raise RecipeError(f"network.preset: expected one of {', '.join(PRESETS)}, got '{self.preset}'")
        fields = type(PRESETS[self.preset](self.scale)).__dataclass_fields__
        for name in self.model_extra or {}:
            if name not in fields:
                raise RecipeError(f"network.{name}: unknown{_nearest(name, fields)}")
        try:
            return preset_config(self.preset, self.scale, self.model_extra or {})
        except ShapeError as error:
            raise RecipeError(f"network.{error}") from error


class DataSection(Section):
    """Folders of images, relative to the data folder given on the command line."""

    train: list[str] = Field(min_length=1)
    """Folders of training images, searched with all below them."""
    validation: str
    """Folder of images on which the network is scored."""
    source_scales: list[Positive] = Field([1.0], min_length=1)
    """Each source image is used at each of these sizes; shrinking removes JPEG artefacts and adds fine detail."""
    most_detailed_of: int = Field(1, ge=1)
    """Each patch is the one with most detail of so many random ones, so that smooth areas are seen less often."""
    degradation: DegradationSection | None = None
    """With this section, low-res patches are made as photographs are; without it by plain bicubic shrinking."""
    augmentation: AugmentationSection = AugmentationSection()
    """How patches are varied."""
    low_res: list[str] | None = None
    """For each folder of `train`, a folder of low-res images that someone else made; by default they are made here."""

    @model_validator(mode="after")
    def _check(self) -> "DataSection":
        if self.low_res is not None:
            if len(self.low_res) != len(self.train):
                raise ValueError(f"low_res: expected {len(self.train)} folders as in train, got {len(self.low_res)}")
            if self.source_scales != [1.0] or self.augmentation.zoom or self.degradation:
                raise ValueError("low_res: given low-res images need source_scales = [1.0], no zoom and no degradation")
        if self.augmentation.cut_clean and self.degradation is None:
            raise ValueError("augmentation.cut_clean needs the section data.degradation")
        return self

    @property
    def plain(self) -> bool:
        """Whether patches are cut from the pairs as they are, and at most flipped and turned."""
        changes = self.augmentation
        changed = changes.zoom or changes.permute_colours or changes.cut_mix
        return self.degradation is None and not changed

    def num_workers(self, processes: int) -> int:
        """Processes that make batches beside the training: making low-res patches takes a tenth of a step or more.

        Batches are the same whatever their number.

        Args:
            processes: that train on this machine and share its cores.
        """
        if self.degradation is None and self.augmentation.zoom is None:
            return 0
        # Where the system can say so, the cores that this process may use, of those that there are.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(MOST_LOADERS, max(1, cores // (2 * processes)))


class LossesSection(Section):
    """The weights of the terms that are added up."""

    l1: float = Field(default=0.0, ge=0)
    """Mean absolute error."""
    mse: float = Field(default=0.0, ge=0)
    """Mean squared error."""
    charbonnier: float = Field(default=0.0, ge=0)
    """Mean of sqrt(error^2 + 1e-6): absolute error, smooth at zero."""
    frequency: float = Field(default=0.0, ge=0)
    """Mean absolute error of the real and imaginary parts of the orthonormal spectrum."""
    attention: float = Field(default=0.0, ge=0)
    """The mean of the losses that operators have of their own: the contrastive one of ENLCN."""
    attention_after: int = Field(default=0, ge=0)
    """Steps before the losses of operators count."""
    likeness: float = Field(default=0.0, ge=0)
    """Cross-entropy between what attentions draw on and what looks alike in the high-res image."""
    distillation: float = Field(default=0.0, ge=0)
    """Mean absolute difference to what `training.teacher` makes of the plain low-res images, at the same places."""

    @model_validator(mode="after")
    def _check(self) -> "LossesSection":
        if not any((self.l1, self.mse, self.charbonnier, self.frequency, self.distillation)):
            raise ValueError("expected a weight above zero for l1, mse, charbonnier, frequency or distillation")
        if self.attention_after and not self.attention:
            raise ValueError("attention_after needs attention above zero")
        return self


def _check_stepwise(value: Any) -> Any:
    table = value if isinstance(value, list | tuple) else [(0, value)]
    for row in table:
        if not (isinstance(row, list | tuple) and len(row) == 2 and all(type(number) is int for number in row)):
            break
        if row[0] < 0 or row[1] < 1:
            break
    else:
        return value
    raise ValueError(f"expected a whole number above zero or [[first step, number], ...], got {value}")


Stepwise = Annotated[int | list[tuple[int, int]], BeforeValidator(_check_stepwise)]
"""A number, or [[first step, number], ...]."""


class TrainingSection(Section):
    steps: int = Field(gt=0)
    """Changes of the weights."""
    batch_size: Stepwise = 16
    """Patches per step, of all processes together; or [[first step, patches], ...]."""
    patch_size: Stepwise = 48
    """Side of a low-res training patch, in pixels; or [[first step, side], ...]."""
    joined_patches: int = Field(1, gt=0)
    """How many patches of a batch form one set of positions for the attention, as in a larger image."""
    accumulate: int = Field(1, gt=0)
    """In how many parts each batch is computed, one after the other: less memory, equal weights up to rounding."""
    losses: LossesSection = LossesSection(l1=1.0)
    """The weight of each term of the loss."""
    teacher: str | None = None
    """Weights of a larger network to learn from, by name or file; needs `losses.distillation`."""
    optimizer: Literal["adam", "adamw", "muon", "schedule-free"] = "adam"
    """`muon` makes the steps of matrices orthogonal, which pays in short trainings (`recipes/README.md`);
    `schedule-free` is AdamW without a schedule, which averages the weights itself (arXiv 2405.15682)."""
    learning_rate: float = Field(2e-4, gt=0)
    """The highest learning rate, reached after the warm-up."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the first and second moment."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled from the gradient; for adamw and schedule-free."""
    schedule: Literal["cosine", "multistep", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup_steps: int = Field(0, ge=0)
    """Steps in which the learning rate rises linearly."""
    final_rate: float = Field(0.0, ge=0, le=1)
    """The cosine ends at this share of the learning rate."""
    cycles: int = Field(1, gt=0)
    """How often the cosine is run through, starting again from the full rate."""
    milestones: tuple[Annotated[int, Field(gt=0)], ...] = ()
    """Steps at which a multistep schedule multiplies the rate by `factor`."""
    factor: float = Field(0.5, gt=0, lt=1)
    """What a multistep schedule multiplies the rate by."""
    gradient_clip: float | None = Field(None, gt=0)
    """Longest gradient, by its Euclidean norm."""
    average_decay: float = Field(0.999, ge=0, lt=1)
    """Decay of the moving average of the weights, which is what is validated and saved; 0 for no average."""
    redraw_every: int | None = Field(None, gt=0)
    """Steps after which attentions with random features get new directions, as ENLCN is trained; never by default."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Precision of convolutions and matrix products; weights, matching and the loss stay in float32."""
    compile: bool = False
    """Compile the network with torch.compile first: that takes half a minute, and saves 2 to 12 % on a processor."""
    validate_every: int = Field(1000, gt=0)
    """Steps between validations and checkpoints."""
    keep_best: bool = True
    """Keep the weights of the best validation as best.safetensors, beside the last checkpoint."""

    @model_validator(mode="after")
    def _check(self) -> "TrainingSection":
        problems = list(_contradictions(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def stages(self) -> "list[Stage]":
        """The batches of each part of the training, in order."""
        patches, batches = _table(self.patch_size), _table(self.batch_size)
        firsts = sorted({first for first, _ in patches + batches})
        return [Stage(first, _at(patches, first), _at(batches, first)) for first in firsts]


class Stage(NamedTuple):
    """From step `first` on: the side of low-res patches, in pixels, and how many make a batch."""

    first: int
    patch_size: int
    batch_size: int


def _not_best(name: str) -> str:
    if name == "best":
        raise ValueError("best.safetensors holds the weights of the best validation; expected another name")
    return name


class Recipe(Section):
    name: Annotated[str, AfterValidator(_not_best)] = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run's folder and of its weights."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the first weights and of every random draw."""
    start: str | None = None
    """Weights to start from, by name or file, such as those of another scale. What differs in shape starts afresh, and
    residual blocks that they lack as the identity."""
    gaps: tuple[str, ...] = ()
    """Notes for people: what a publication does not say of its training, and what this recipe does differently."""
    network: NetworkSection
    data: DataSection
    training: TrainingSection

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if self.training.teacher is not None and self.data.augmentation.zoom:
            raise ValueError("training.teacher enlarges images at their own sizes; leave out data.augmentation.zoom")
        return self

    def build_network(self) -> Any:
        """The untrained network; equal recipes give equal weights.

        Raises: RecipeError if sizes do not fit each other, or the network lacks what a loss needs.
        """
        config = self.network.config()
        try:
            network = build(config, seed=self.seed)
        except NlsrError as error:
            raise RecipeError(f"network: {error}") from error
        settings = self.training
        for key, wanted, method in (
            ("losses.attention", settings.losses.attention, "loss"),
            ("redraw_every", settings.redraw_every, "redraw"),
        ):
            if wanted and not any(operator.has_own(method) for operator in network.operators()):
                lacks = {"loss": "a loss of its own", "redraw": "random directions to draw anew"}[method]
                raise RecipeError(f"training.{key}: {self.network.preset} has no attention with {lacks}; remove it")
        if settings.losses.likeness and not network.operators():
            raise RecipeError(f"training.losses.likeness: {self.network.preset} matches nothing here; remove it")
        if settings.joined_patches > 1 and self.network.preset == "csnln":
            raise RecipeError(
                "training.joined_patches: the cross-scale attention of csnln stays within a patch; remove it"
            )
        attentions = [module for module in network.modules() if isinstance(module, SharedAttention)]
        if settings.joined_patches > 1 and not attentions and getattr(config, "operator", None) != "none":
            raise RecipeError(
                f"training.joined_patches: {self.network.preset} has no attention between patches; remove it"
            )
        network.joined_patches = settings.joined_patches
        return network


def _table(value: Stepwise) -> list[tuple[int, int]]:
    return [(0, value)] if isinstance(value, int) else value


def _at(table: list[tuple[int, int]], step: int) -> int:
    return next(value for first, value in reversed(table) if first <= step)


def _contradictions(settings: TrainingSection) -> Iterator[str]:
    """What each of several values forbids the other, in words."""
    whole = True
    for name in ("patch_size", "batch_size"):
        firsts = [first for first, _ in _table(getattr(settings, name))]
        if not firsts or firsts[0] != 0 or firsts != sorted(set(firsts)):
            whole = False
            yield f"{name}: expected [[0, ...], [a later step, ...], ...], got first steps {firsts}"
        elif firsts[-1] >= settings.steps:
            yield f"{name}: a change at step {firsts[-1]} never comes in {settings.steps} steps"
    parts = settings.accumulate * settings.joined_patches
    if whole and (uneven := [s.batch_size for s in settings.stages if s.batch_size % parts]):
        yield (
            f"batch_size: {uneven[0]} patches cannot be computed in {settings.accumulate} equal parts (accumulate) of "
            f"multiples of {settings.joined_patches} (joined_patches)"
        )
    if settings.warmup_steps >= settings.steps:
        yield f"warmup_steps: {settings.warmup_steps} of {settings.steps} steps leave none to train in"
    owners = {"final_rate": "cosine", "cycles": "cosine", "milestones": "multistep", "factor": "multistep"}
    for name, owner in owners.items():
        if settings.schedule != owner and getattr(settings, name) != TrainingSection.model_fields[name].default:
            yield f'{name}: belongs to schedule = "{owner}", not to "{settings.schedule}"'
    if settings.schedule == "multistep":
        milestones = list(settings.milestones)
        if not milestones or milestones != sorted(set(milestones)) or milestones[-1] >= settings.steps:
            yield f"milestones: expected rising steps below {settings.steps}, got {milestones}"
    if settings.weight_decay and settings.optimizer == "muon":
        yield 'weight_decay: muon has none; use optimizer = "adamw"'
    if settings.weight_decay and settings.optimizer == "adam":
        yield 'weight_decay: is no decay in adam, whose second moment scales it away; use optimizer = "adamw"'
    if settings.optimizer == "schedule-free":
        if settings.schedule != "constant":
            yield f'schedule: schedule-free needs "constant", got "{settings.schedule}"'
        if not settings.betas[0]:
            yield "betas: schedule-free needs the first above zero"
        if settings.average_decay:
            yield f"average_decay: schedule-free averages the weights itself and needs 0, got {settings.average_decay}"
    if (settings.teacher is None) != (not settings.losses.distillation):
        yield "teacher: and losses.distillation above zero need each other"


def read_recipe(path: Path, settings: list[str] | None = None) -> Recipe:
    """Read a recipe and apply `section.key=value` settings, values in TOML.

    Raises: RecipeError that names the file and the wrong key.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a TOML file ({error})") from error
    for setting in settings or []:
        _apply(content, setting)
    try:
        recipe = Recipe.model_validate(content)
        recipe.network.config()
    except ValidationError as error:
        raise RecipeError(f"{path}: " + "; ".join(_explain(problem) for problem in error.errors())) from error
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error
    return recipe


def _apply(content: dict[str, Any], setting: str) -> None:
    key, equals, value = setting.partition("=")
    if not equals:
        raise RecipeError(f"{setting}: expected section.key=value")
    *sections, last = key.strip().split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise RecipeError(f"{setting}: '{section}' is not a section")
    content[last] = parse_value(value)


def _explain(problem: Any) -> str:
    names = [str(part) for part in problem["loc"]]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = f"unknown{_nearest(names[-1], _section(names[:-1]).model_fields)}"
    return ": ".join([*([".".join(names)] if names else []), message])


def _section(names: list[str]) -> type[BaseModel]:
    """The model of the section of these nested names."""
    model: type[BaseModel] = Recipe
    for name in names:
        annotation = model.model_fields[name].annotation if name in model.model_fields else None
        kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        model = next((kind for kind in kinds if issubclass(kind, BaseModel)), model)
    return model


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(known)}"
