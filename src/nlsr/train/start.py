"""What a training needs before its first step: weights to start from, a teacher, images to validate on."""

from pathlib import Path

import torch
from torch import nn

from nlsr.errors import RecipeError, ShapeError
from nlsr.evaluate import PairFolder
from nlsr.evaluate.metrics import WINDOW_SIZE
from nlsr.files import sha256
from nlsr.networks import Network
from nlsr.networks.parts import ResidualBlock
from nlsr.train.recipe import Recipe
from nlsr.weights import find, load
from nlsr.weights.catalogue import recognised


def images_to_validate(folder: Path, scale: int) -> list[str]:
    """Names of all images, which are looked at now, not at the first validation after an hour.

    Raises: ImageError if one cannot be read or there is none, ShapeError if one is too small.
    """
    names = []
    for pair in PairFolder(folder, scale=scale):
        names.append(pair.name)
        height, width = pair.high_res.shape[2:]
        if min(height, width) < (least := WINDOW_SIZE + 2 * scale):
            raise ShapeError(
                f"{folder / pair.name}: expected {least}x{least} pixels or more to validate at x{scale}, got "
                f"{width}x{height}; remove it"
            )
    return names


@torch.no_grad()
def start_from(network: Network, model: str) -> None:
    """Copy every weight of another model that fits by name and shape: all but the upsampler, between scales.

    What belongs to one module is copied together or not at all: clusters of another number begin as if never started.
    Residual blocks that the other model lacks begin as the identity, so that a deeper network starts where it ended.

    Raises: CheckpointError if there is no such model; RecipeError if not half of the network's weights fit.
    """
    given, own = load(model).state_dict(), network.state_dict()
    others = {_owner(name) for name in own if name not in given or given[name].shape != own[name].shape}
    fitting = [name for name in own if _owner(name) not in others]
    if sum(own[name].numel() for name in fitting) < sum(tensor.numel() for tensor in own.values()) / 2:
        raise RecipeError(f"start: {model} fits in {len(fitting)} of {len(own)} tensors; name weights of this network")
    for name in fitting:
        own[name].copy_(given[name])
    for name, module in network.named_modules():
        if isinstance(module, ResidualBlock) and f"{name}.second.weight" not in given:
            for parameter in module.second.parameters():
                nn.init.zeros_(parameter)


def _owner(name: str) -> str:
    """The module that a weight belongs to."""
    return name.rpartition(".")[0]


def about_teacher(recipe: Recipe) -> dict[str, str]:
    """What a card says of the teacher: its file, and where that is known, its source and what it was trained on.

    Raises: CheckpointError if there is no such model.
    """
    assert recipe.training.teacher is not None
    path = find(recipe.training.teacher, scale=recipe.network.scale)
    digest = sha256(path)
    about, known = {"file": path.name, "sha256": digest}, recognised(digest)
    if known is not None:
        about |= {"source": known.source, "licence": known.licence, "trained on": known.trained_on}
    return about


def load_teacher(recipe: Recipe) -> Network:
    """Raises: CheckpointError if there is no such model, RecipeError if it enlarges by another scale."""
    assert recipe.training.teacher is not None
    teacher = load(recipe.training.teacher).requires_grad_(False)
    if teacher.scale != recipe.network.scale:
        raise RecipeError(
            f"training.teacher: {recipe.training.teacher} enlarges by {teacher.scale}, expected {recipe.network.scale}"
        )
    return teacher
