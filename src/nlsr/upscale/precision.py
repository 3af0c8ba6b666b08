"""In which precision a network computes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

from nlsr.errors import UsageError

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

MEMORY_SHARE = {"fp32": 1.0, "bf16": 0.6, "fp16": 0.6}
"""Memory against fp32; more than half, as autocast leaves some maps in float32. Measured."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose(
    precision: Literal["auto"] | Precision,
    device: torch.device,
    depth: int,
    *,
    made_for: tuple[str, ...] | None = None,
) -> Precision:
    """What "auto" means: bf16 for 8-bit pictures where the device is made for it, else fp32.

    On a processor with bf16 instructions it took half of the time and changed the PSNR of `lcoan-light-x4` by +0.004 dB
    on Set5 and +0.001 dB on ten images of Urban100. Numbers of bf16 have 8 bits: too few for deeper pictures.

    Args:
        made_for: the half precisions that a foreign network is made for. What they cost it nobody has measured here: it
            computes in them only when asked.
    Raises: UsageError for an unknown precision, and for one that the network is not made for.
    """
    if precision == "auto":
        return "bf16" if depth == 8 and made_for is None and has_fast_bf16(device) else "fp32"
    if precision in ("bf16", "fp16") and made_for is not None and precision not in made_for:
        raise UsageError(
            f"`precision={precision}`: this model is not made for it; take {' or '.join(('fp32', *made_for))}"
        )
    if precision not in PRECISIONS:
        raise UsageError(f"`precision={precision}`: expected auto, {', '.join(PRECISIONS)}")
    return precision


@contextmanager
def computing_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """The context in which a network computes in a precision. In fp32 convolutions on CUDA do not round to TF32."""
    if precision != "fp32":
        with torch.autocast(device.type, dtype=_DTYPES[precision]):
            yield
        return
    cudnn = torch.backends.cudnn
    before = dict(enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic)
    with torch.autocast(device.type, enabled=False), cudnn.flags(**before, allow_tf32=False):
        yield


def has_fast_bf16(device: torch.device) -> bool:
    if device.type != "cpu":
        return False
    instructions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in instructions)
