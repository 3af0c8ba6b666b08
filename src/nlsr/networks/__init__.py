"""Networks by name. Each is built from its frozen config; `NETWORKS` maps a name to its config and class."""

import dataclasses
from collections.abc import Callable
from typing import Any

from nlsr.errors import ShapeError
from nlsr.networks.asid import ASID, ASIDConfig, asid, asid_d8
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


def configure(kind: type[Any], values: dict[str, Any]) -> Any:
    """A config of values that a file or a person gave.

    Raises: ShapeError that names the fields that are unknown, missing or of another type, and counts below one.
    """
    from pydantic import TypeAdapter, ValidationError

    fields = [field.name for field in dataclasses.fields(kind)]
    problems = [f"{name}: unknown; known are {', '.join(fields)}" for name in values if name not in fields]
    try:
        config = TypeAdapter(kind).validate_python({name: values[name] for name in values if name in fields})
    except ValidationError as error:
        for each in error.errors():
            message = each["msg"].replace("Input should be", "expected", 1)
            problems.append(f"{'.'.join(map(str, each['loc']))}: {message}, got {each['input']!r}")
    else:
        for name, value in vars(config).items():
            if type(value) is int and value < 1:
                problems.append(f"{name}: expected a whole number above zero, got {value}")
    if problems:
        raise ShapeError("; ".join(problems))
    return config


def name_of(network: Network) -> str:
    """The name under which a network's class is known."""
    return next(name for name, (_, kind) in NETWORKS.items() if type(network) is kind)


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
