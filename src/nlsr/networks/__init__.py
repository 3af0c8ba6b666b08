"""Networks by name. Each is built from its frozen config; `NETWORKS` maps a name to its config and class."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from nlsr.errors import UsageError
from nlsr.networks import asid, atd, catanet, csnln, dlsn, enlcn, lcoan, levn, nlan, nlsn, pan, pft, smfanet
from nlsr.networks.asid import ASID, ASIDConfig
from nlsr.networks.atd import ATD, ATDConfig
from nlsr.networks.catanet import CATANet, CATANetConfig
from nlsr.networks.configs import configure
from nlsr.networks.csnln import CSNLN, CSNLNConfig
from nlsr.networks.dlsn import DLSN, DLSNConfig
from nlsr.networks.enlcn import ENLCN, ENLCNConfig
from nlsr.networks.foreign import ForeignConfig, ForeignNetwork
from nlsr.networks.lcoan import LCoAN, LCoANConfig
from nlsr.networks.network import Network, Trace
from nlsr.networks.nlan import NLAN, NLANConfig
from nlsr.networks.nlsn import NLSN, NLSNConfig
from nlsr.networks.pan import PAN, PANConfig
from nlsr.networks.pft import PFT, PFTConfig
from nlsr.networks.smfanet import SMFANet, SMFANetConfig
from nlsr.renamed import translated

NETWORKS: dict[str, tuple[type[Any], type[Network]]] = {
    "asid": (ASIDConfig, ASID),
    "atd": (ATDConfig, ATD),
    "catanet": (CATANetConfig, CATANet),
    "csnln": (CSNLNConfig, CSNLN),
    "dlsn": (DLSNConfig, DLSN),
    "enlcn": (ENLCNConfig, ENLCN),
    "lcoan": (LCoANConfig, LCoAN),
    "nlan": (NLANConfig, NLAN),
    "nlsn": (NLSNConfig, NLSN),
    "pan": (PANConfig, PAN),
    "pft": (PFTConfig, PFT),
    "smfanet": (SMFANetConfig, SMFANet),
}
"""Name -> (config, class)."""

PRESETS: dict[str, Callable[[int], Any]] = {
    "asid": asid.asid,
    "asid-d8": asid.asid_d8,
    "atd": atd.atd,
    "atd-light": atd.atd_light,
    "catanet": catanet.catanet,
    "catanet-shared": catanet.catanet_shared,
    "csnln": csnln.csnln,
    "dlsn": dlsn.dlsn,
    "enlcn": enlcn.enlcn,
    "glan": dlsn.dlsn,
    "lcoan": lcoan.lcoan,
    "lcoan-light": lcoan.lcoan_light,
    "levn": levn.levn,
    "nlan": nlan.nlan,
    "nlsn": nlsn.nlsn,
    "pan": pan.pan,
    "pft": pft.pft,
    "pft-light": pft.pft_light,
    "smfanet": smfanet.smfanet,
    "smfanet-plus": smfanet.smfanet_plus,
}
"""Name -> function of the scale that returns a config."""


def register(name: str, config: type[Any], kind: type[Network], *, preset: Callable[[int], Any] | None = None) -> None:
    """Make a network known by a name: from then on recipes, commands and files take it.

    Whoever loads a file that names it must have registered it before. Registering a class again changes nothing.

    Args:
        config: a frozen dataclass with a `scale`.
        kind: built as `kind(config)`.
        preset: makes a config of a scale; by default `config(scale)`.
    Raises: UsageError if the name is taken, or the class has no frozen dataclass as its config.
    """
    if not (isinstance(config, type) and dataclasses.is_dataclass(config) and "scale" in config.__dataclass_fields__):
        raise UsageError(f"expected a dataclass with a field 'scale' as the config of '{name}', got {config!r}")
    _, taken = NETWORKS.get(name, (config, kind))
    if (taken.__module__, taken.__qualname__) != (kind.__module__, kind.__qualname__) or (
        name in PRESETS and name not in NETWORKS
    ):
        raise UsageError(f"a network '{name}' is known already; take another name")
    NETWORKS[name] = config, kind
    PRESETS[name] = preset or config


def create(name: str, *, scale: int, seed: int = 0, **fields: Any) -> Network:
    """An untrained network in training mode; equal calls give equal weights.

        network = nlsr.create("lcoan", scale=2, num_groups=4, operator="hash")

    Args:
        name: a preset, `lcoan-light` for instance; see `PRESETS`.
        seed: decides the first weights.
        fields: what of the config should differ from the preset.
    Raises: UsageError for an unknown name, ShapeError for fields that are unknown or do not fit.
    """
    return build(preset_config(name, scale, fields), seed=seed)


def preset_config(name: str, scale: int, fields: dict[str, Any]) -> Any:
    """The config of a preset, with fields that differ. Raises: as `create`."""
    if name not in PRESETS:
        raise UsageError(f"expected a network of {', '.join(PRESETS)}, got '{name}'")
    preset = PRESETS[name](scale)
    return configure(type(preset), vars(preset) | translated(type(preset).__name__, fields))


def build(config: Any, *, seed: int = 0) -> Network:
    """The untrained network of a config; equal calls give equal weights, and nobody else's draws move.

    Raises: ShapeError or UsageError if sizes do not fit each other.
    """
    kind = dict(NETWORKS.values())[type(config)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(config)


def name_of(network: nn.Module) -> str:
    """The name under which a network's class is known; a foreign network has that of its architecture.

    Raises: UsageError for anything that is no network of nlsr.
    """
    if isinstance(network, ForeignNetwork):
        return network.config.architecture
    for name, (_, kind) in NETWORKS.items():
        if type(network) is kind:
            return name
    raise UsageError(f"expected a network of nlsr ({', '.join(NETWORKS)}), got {type(network).__name__}")


__all__ = [
    "ASID",
    "ATD",
    "CSNLN",
    "DLSN",
    "ENLCN",
    "NETWORKS",
    "NLAN",
    "NLSN",
    "PAN",
    "PFT",
    "PRESETS",
    "ASIDConfig",
    "ATDConfig",
    "CATANet",
    "CATANetConfig",
    "CSNLNConfig",
    "DLSNConfig",
    "ENLCNConfig",
    "ForeignConfig",
    "ForeignNetwork",
    "LCoAN",
    "LCoANConfig",
    "NLANConfig",
    "NLSNConfig",
    "Network",
    "PANConfig",
    "PFTConfig",
    "SMFANet",
    "SMFANetConfig",
    "Trace",
    "build",
    "configure",
    "create",
    "name_of",
    "register",
]
