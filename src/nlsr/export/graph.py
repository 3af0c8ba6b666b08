"""The graph of a network: what torch records of it for any batch, height and width."""

import contextlib
import copy
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from nlsr.errors import UsageError
from nlsr.export.formats import Weights
from nlsr.networks import ForeignNetwork, Network, name_of

EXAMPLE = (2, 3, 40, 56)
"""The batch that is recorded: no side is 1 or equal to another, which a graph might take for a law."""
LARGEST_SIDE = 2**14


@torch.no_grad()
def record(network: Network, *, weights: Weights = "fp32") -> ExportedProgram:
    """The graph of a network in eval mode, in single precision whatever the caller computes in.

    Raises: UsageError with the operation and the reason if it has none.
    """
    check_exportable(network)
    name = name_of(network)
    network = _in_rows(network)
    sides = {"height": Dim("height", min=1, max=LARGEST_SIDE), "width": Dim("width", min=1, max=LARGEST_SIDE)}
    free = {0: Dim("batch", min=1), 2: sides["height"], 3: sides["width"]}
    single = torch.autocast("cpu", enabled=False)  # a caller's would be recorded
    try:
        with _holding_directions(network), _any_size(), single, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about its own ways
            module = HalfWeights(network) if weights == "fp16" else network
            program = torch.export.export(module, (torch.rand(EXAMPLE),), dynamic_shapes=(free,), strict=False)
    except Exception as error:  # torch names what it cannot record in errors of any type
        reason = str(error).strip().splitlines()
        raise UsageError(f"{name} cannot be exported for every size: {_where(error)}{' '.join(reason[:2])}") from error
    _allow_every_size(program)
    return program


def check_exportable(network: Network) -> None:
    """Raises: UsageError with the operation and the reason for a network that is known to have no graph."""
    name = name_of(network)
    if isinstance(network, ForeignNetwork):
        raise UsageError(f"a network of {name} is not built by nlsr and cannot be exported; its own library may do so")
    for operator in network.operators():
        if operator.no_graph:
            raise UsageError(f"{name} cannot be exported: its attention {type(operator).__name__} {operator.no_graph}")


def _in_rows(network: Network) -> Network:
    """A copy whose weights lie row by row: from another layout torch would conclude laws for the sides of pictures."""
    network = copy.deepcopy(network)
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return network


class HalfWeights(nn.Module):
    """A network whose weights are stored in half precision and used in single precision."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = [network]  # in a list, so that its weights are not weights of this module too
        self._names = [name for name, tensor in network.state_dict().items() if tensor.is_floating_point()]
        for index, name in enumerate(self._names):
            self.register_buffer(f"half{index}", network.state_dict()[name].half())

    def forward(self, low_res: Tensor) -> Tensor:
        weights = {name: getattr(self, f"half{index}").float() for index, name in enumerate(self._names)}
        return torch.func.functional_call(self._network[0], weights, (low_res,))


@contextlib.contextmanager
def _holding_directions(network: Network) -> Iterator[None]:
    """Operators that draw directions, as many as the size of the picture wants, hold those of all sizes for a while."""
    every = {operator: operator.every_direction() for operator in dict.fromkeys(network.operators())}
    holding = {operator: directions for operator, directions in every.items() if directions is not None}
    try:
        for operator, directions in holding.items():
            operator.register_buffer("directions_held", directions)
        yield
    finally:
        for operator in holding:
            del operator.directions_held


@contextlib.contextmanager
def _any_size() -> Iterator[None]:
    """Sides of one pixel are recorded as sides of any length, where torch knows how."""
    from torch.fx.experimental import _config

    if not hasattr(_config, "backed_size_oblivious"):
        yield
        return
    before = _config.backed_size_oblivious
    _config.backed_size_oblivious = True
    try:
        yield
    finally:
        _config.backed_size_oblivious = before


def _allow_every_size(program: Any) -> None:
    """Leave out the conditions that sides and numbers of positions are greater than one or differ from each other.
    torch adds them where it asks whether a tensor lies in one piece, which changes no value, and has no public way to
    do without them. An older torch has none to leave out; the proof runs one pixel."""
    if hasattr(program, "_guards_code"):
        program._guards_code = []


def _where(error: BaseException) -> str:
    """The place in the package at which recording ended, for those who want to mend it."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if name.startswith(("nlsr.attention", "nlsr.networks")):
            places.append(f"{name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"at {places[-1]}: " if places else ""
