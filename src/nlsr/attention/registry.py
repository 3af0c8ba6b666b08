"""Operators by name: the one dictionary that recipes, files, tables and pictures take their words from."""

from collections.abc import Mapping
from typing import Any

from nlsr.attention.affinity import Operator
from nlsr.attention.cross_scale import CrossScale
from nlsr.attention.dense import NonLocal
from nlsr.attention.efficient_contrastive import EfficientContrastive
from nlsr.attention.focused_window import FocusedWindow
from nlsr.attention.global_learnable import GlobalLearnable
from nlsr.attention.learnable_collaborative import LearnableSparsePattern
from nlsr.attention.leverage import Leverage
from nlsr.attention.nearest import Nearest
from nlsr.attention.nonlocal_sparse import NonLocalSparse
from nlsr.attention.overlapping_window import OverlappingWindow
from nlsr.attention.shared_window import SharedGrid, SharedWindow
from nlsr.attention.shifted_window import ShiftedWindow
from nlsr.attention.token_aggregation import TokenAggregation
from nlsr.attention.token_dictionary import TokenCategories
from nlsr.errors import UsageError

OPERATORS: dict[str, type[Operator]] = {
    "kmeans": LearnableSparsePattern,
    "hash": NonLocalSparse,
    "superbit": GlobalLearnable,
    "kernel": EfficientContrastive,
    "leverage": Leverage,
    "nearest": Nearest,
    "window": SharedWindow,
    "grid": SharedGrid,
    "overlapping-window": OverlappingWindow,
    "shifted-window": ShiftedWindow,
    "focused-window": FocusedWindow,
    "tokens": TokenAggregation,
    "categories": TokenCategories,
    "cross-scale": CrossScale,
    "dense": NonLocal,
}
"""Name -> class; built as `kind(channels, **settings)`, each with the sizes of its paper by default."""


def register(name: str, kind: Any) -> None:
    """Make an operator known by a name: from then on networks, recipes, commands and files take it.

    Whoever loads a file that names it must have registered it before. Registering a class again changes nothing.

    Args:
        kind: a subclass of `Operator`, built as `kind(channels)`, with keywords from `operator_settings` of a network's
            config.
    Raises: UsageError if the name is taken, or what is registered is no class of operators.
    """
    if not (isinstance(kind, type) and issubclass(kind, Operator)):
        raise UsageError(f"expected a subclass of nlsr.attention.Operator as '{name}', got {kind!r}")
    if not name.replace("-", "_").isidentifier() or name == "none":
        raise UsageError(f"expected a name of letters, digits and dashes for {kind.__name__}, got '{name}'")
    taken = OPERATORS.get(name, kind)
    if (taken.__module__, taken.__qualname__) != (kind.__module__, kind.__qualname__):
        raise UsageError(f"operator '{name}' is {taken.__module__}.{taken.__qualname__} already; take another name")
    OPERATORS[name] = kind


def operator_class(name: str) -> type[Operator]:
    """What is known by a name. Raises: UsageError for nothing."""
    if name not in OPERATORS:
        raise UsageError(
            f"operator: expected one of {', '.join(OPERATORS)}, got '{name}'; import the module that registers it"
        )
    return OPERATORS[name]


def build_operator(name: str, channels: int, settings: Mapping[str, Any]) -> Operator:
    """An operator by its name.

    Args:
        channels: number of channels of the features.
        settings: keywords of its constructor.
    Raises: UsageError if there is none of this name, or if it has no such keywords; ShapeError if sizes do not fit.
    """
    kind = operator_class(name)
    try:
        return kind(channels, **settings)
    except TypeError as error:
        raise UsageError(f"operator '{name}' cannot be built with {dict(settings)}: {error}") from error


def operator_name(operator: Operator) -> str:
    """The name by which the class of an operator is known.

    Raises: UsageError if it was not registered.
    """
    for name, kind in OPERATORS.items():
        if type(operator) is kind:
            return name
    kind = type(operator)
    raise UsageError(
        f"the operator {kind.__qualname__} has no name; register it with nlsr.attention.register(name, "
        f"{kind.__qualname__})"
    )
