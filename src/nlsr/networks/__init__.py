"""Networks by name. Each is built from its frozen config; `NETWORKS` maps a name to its config and class."""

from collections.abc import Callable
from typing import Any

from torch import nn

from nlsr.errors import UsageError
from nlsr.networks.asid import ASID, ASIDConfig, asid, asid_d8
from nlsr.networks.configs import configure
from nlsr.networks.csnln import CSNLN, CSNLNConfig, csnln
from nlsr.networks.dlsn import DLSN, DLSNConfig, dlsn
from nlsr.networks.enlcn import ENLCN, ENLCNConfig, enlcn
from nlsr.networks.lcoan import LCoAN, LCoANConfig, lcoan, lcoan_light
from nlsr.networks.levn import levn
from nlsr.networks.network import Network, Trace
from nlsr.networks.nlan import NLAN, NLANConfig, nlan
from nlsr.networks.nlsn import NLSN, NLSNConfig, nlsn
from nlsr.networks.pan import PAN, PANConfig, pan
from nlsr.networks.smfanet import SMFANet, SMFANetConfig, smfanet, smfanet_plus

NETWORKS: dict[str, tuple[type[Any], type[Network]]] = {
    "asid": (ASIDConfig, ASID),
    "csnln": (CSNLNConfig, CSNLN),
    "dlsn": (DLSNConfig, DLSN),
    "enlcn": (ENLCNConfig, ENLCN),
    "lcoan": (LCoANConfig, LCoAN),
    "nlan": (NLANConfig, NLAN),
    "nlsn": (NLSNConfig, NLSN),
    "pan": (PANConfig, PAN),
    "smfanet": (SMFANetConfig, SMFANet),
}
"""Name -> (config, class)."""

PRESETS: dict[str, Callable[[int], Any]] = {
    "asid": asid,
    "asid-d8": asid_d8,
    "csnln": csnln,
    "dlsn": dlsn,
    "enlcn": enlcn,
    "glan": dlsn,
    "lcoan": lcoan,
    "lcoan-light": lcoan_light,
    "levn": levn,
    "nlan": nlan,
    "nlsn": nlsn,
    "pan": pan,
    "smfanet": smfanet,
    "smfanet-plus": smfanet_plus,
}
"""Name -> function of the scale that returns a config."""


def name_of(network: nn.Module) -> str:
    """The name under which a network's class is known.

    Raises: UsageError for anything that is no network of `NETWORKS`.
    """
    for name, (_, kind) in NETWORKS.items():
        if type(network) is kind:
            return name
    raise UsageError(f"expected a network of nlsr ({', '.join(NETWORKS)}), got {type(network).__name__}")


__all__ = [
    "ASID",
    "CSNLN",
    "DLSN",
    "ENLCN",
    "NETWORKS",
    "NLAN",
    "NLSN",
    "PAN",
    "PRESETS",
    "ASIDConfig",
    "CSNLNConfig",
    "DLSNConfig",
    "ENLCNConfig",
    "LCoAN",
    "LCoANConfig",
    "NLANConfig",
    "NLSNConfig",
    "Network",
    "PANConfig",
    "SMFANet",
    "SMFANetConfig",
    "Trace",
    "asid",
    "asid_d8",
    "configure",
    "csnln",
    "dlsn",
    "enlcn",
    "lcoan",
    "lcoan_light",
    "levn",
    "name_of",
    "nlan",
    "nlsn",
    "pan",
    "smfanet",
    "smfanet_plus",
]
