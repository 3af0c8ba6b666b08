"""Training recipes: TOML files read into checked models. A wrong key is named with the nearest right one."""

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nlsr.errors import NlsrError, RecipeError
from nlsr.networks import NETWORKS, PRESETS
from nlsr.settings import parse_value
from nlsr.train.data.degradation.settings import DegradationSection
from nlsr.train.section import Positive, Section


class NetworkSection(BaseModel):
    """A preset, a scale, and any field of the network's config that should differ from the preset."""

    model_config = ConfigDict(extra="allow", frozen=True)

    preset: str
    scale: Literal[2, 3, 4]

    def config(self) -> Any:
        """Raises: RecipeError for an unknown preset or config field."""
        if self.preset not in PRESETS:
            raise RecipeError(f"network.preset: expected one of {', '.join(PRESETS)}, got '{self.preset}'")
        config = PRESETS[self.preset](self.scale)
        fields = type(config).__dataclass_fields__
        for name in self.model_extra or {}:
            if name not in fields:
                raise RecipeError(f"network.{name}: unknown{_nearest(name, fields)}")
        return type(config)(**{name: getattr(config, name) for name in fields} | (self.model_extra or {}))


class DataSection(Section):
    """Folders of images, relative to the data folder given on the command line."""

    train: list[str] = Field(min_length=1)
    validation: str
    source_scales: list[Positive] = Field([1.0], min_length=1)
    """Each source image is used at each of these sizes; shrinking removes JPEG artefacts and adds fine detail."""
    degradation: DegradationSection | None = None
    """With this section, low-res patches are made as photographs are; without it by plain bicubic shrinking."""


class TrainingSection(Section):
    steps: int = Field(gt=0)
    batch_size: int = Field(16, gt=0)
    patch_size: int = Field(48, gt=0)
    """Side of a low-res training patch, in pixels."""
    learning_rate: float = Field(2e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = Field(0, ge=0)
    final_rate: float = Field(0.0, ge=0, le=1)
    """The cosine ends at this share of the learning rate."""
    gradient_clip: float | None = Field(None, gt=0)
    average_decay: float = Field(0.999, ge=0, lt=1)
    """Of the exponential moving average of the weights, which is what is validated and saved."""
    precision: Literal["fp32", "bf16"] = "bf16"
    validate_every: int = Field(1000, gt=0)
    """Steps between validations and checkpoints."""


class Recipe(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = 0
    start: str | None = None
    """Weights to start from, by name or file: of another scale, say. What differs in shape starts afresh."""
    network: NetworkSection
    data: DataSection
    training: TrainingSection

    def build_network(self) -> Any:
        """The untrained network; equal recipes give equal weights."""
        import torch

        config = self.network.config()
        kinds = dict(NETWORKS.values())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            try:
                return kinds[type(config)](config)
            except (NlsrError, TypeError, KeyError) as error:
                raise RecipeError(f"network: {error}") from error


def read_recipe(path: Path, settings: list[str] | None = None) -> Recipe:
    """Read a recipe and apply `section.key=value` settings, values in TOML.

    Raises: RecipeError that names the file and the wrong key.
    """
    try:
        content = tomllib.loads(path.read_text())
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
        raise RecipeError(f"--set {setting}: expected section.key=value")
    *sections, last = key.strip().split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise RecipeError(f"--set {setting}: '{section}' is not a section")
    content[last] = parse_value(value)


def _explain(problem: Any) -> str:
    *outer, last = [str(part) for part in problem["loc"]]
    where = ".".join([*outer, last])
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown{_nearest(last, _section(outer).model_fields)}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message}"


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
