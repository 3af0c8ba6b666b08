"""Networks by name. Each is built from its frozen config; `NETWORKS` maps a name to its config and class."""

from collections.abc import Callable
from typing import Any

from nlsr.networks.lcoan import LCoAN, LCoANConfig, lcoan, lcoan_light
from nlsr.networks.network import Network, Trace
from nlsr.networks.pan import PAN, PANConfig, pan

NETWORKS: dict[str, tuple[type[Any], type[Network]]] = {
    "lcoan": (LCoANConfig, LCoAN),
    "pan": (PANConfig, PAN),
}
"""Name -> (config, class)."""

PRESETS: dict[str, Callable[[int], Any]] = {"lcoan": lcoan, "lcoan-light": lcoan_light, "pan": pan}
"""Name -> function of the scale that returns a config."""


def name_of(network: Network) -> str:
    """The name under which a network's class is known."""
    return next(name for name, (_, kind) in NETWORKS.items() if type(network) is kind)


__all__ = [
    "NETWORKS",
    "PAN",
    "PRESETS",
    "LCoAN",
    "LCoANConfig",
    "Network",
    "PANConfig",
    "Trace",
    "lcoan",
    "lcoan_light",
    "name_of",
    "pan",
]
