"""How a picture will be upscaled, decided before anything is computed: a pure function of model, size and budget."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from nlsr.errors import UsageError
from nlsr.memory import shown
from nlsr.upscale.bands import BAND_BYTES
from nlsr.upscale.cascade import Cascade
from nlsr.upscale.precision import MEMORY_SHARE, Precision
from nlsr.upscale.tiles import OVERLAP, Axis

SMALLEST_TILE = 64
LARGEST_TILE = {"torch": 352, "onnxruntime": 704, "openvino": 704}
"""Beyond it a feature map of 64 channels exceeds 32 MiB, which the C library gives back to the system each time: twice
the time per pixel in torch. Engines keep their memory, and larger tiles overlap less."""
STEP = 32

PROGRAM_BYTES = 24 * 2**20
"""What code, threads and scratch space take once, whatever the picture; measured."""
SCATTERED = {"fp32": 1.15, "bf16": 1.6, "fp16": 1.6}
"""Torch's memory of many tiles against one of them: maps that are not given back to the system do not fit the holes
that others left, and those of half precision are small enough to be kept. Measured; between runs it varies by a fifth.
"""

ENGINE_SHARE = {"torch": 1.0, "onnxruntime": 2.0, "openvino": 1.3}
"""Memory of an engine against what torch needs, beside the weights of attentions. Measured: 1.8 to 1.9 and 0.9 to 1.2
times for PAN, SMFANet+ and `lcoan-light`, at 256x256 as at 704x704."""
ENGINE_BYTES = {"torch": 0, "onnxruntime": 64 * 2**20, "openvino": 128 * 2**20}
"""What an engine and its compiled network take once, whatever the picture; measured."""


@dataclass(frozen=True)
class Job:
    """What a plan depends on, beside the networks and the budget.

    Args:
        height, width: size of the picture. new_height, new_width: size of the result.
        alpha: whether the picture has alpha.
        held: bytes that stay in memory beside the computation: the result, or what its encoder needs.
        reading: bytes that were taken before, while the picture was read from its file; 0 without a file.
        ensemble: whether all eight flips and turns are computed.
    """

    height: int
    width: int
    new_height: int
    new_width: int
    alpha: bool
    held: int
    reading: int
    ensemble: bool


@dataclass(frozen=True)
class Plan:
    """How a picture is upscaled: through which networks, whole or in tiles, and why.

    Args:
        height, width: size of the picture. new_height, new_width: size of the result.
        scales: the scale of each network, in the order in which they are applied; empty if the picture is not enlarged.
        tile_size: the largest side of a tile in pixels of the picture; None takes it whole.
        precision: in which the networks compute.
        engine: what computes them.
        alike: how many pictures of this size follow each other in a batch; an engine may prepare for it.
        predicted: the memory it will take beside the program, in bytes.
        reason: why it is whole or tiled, in words.
    """

    height: int
    width: int
    new_height: int
    new_width: int
    scales: tuple[int, ...]
    tile_size: int | None
    precision: Precision
    predicted: int
    reason: str
    engine: str = "torch"
    alike: int = 1

    @property
    def rows(self) -> Axis:
        return Axis.cut(self.height, self.tile_size or self.height)

    @property
    def columns(self) -> Axis:
        return Axis.cut(self.width, self.tile_size or self.width)

    @property
    def num_tiles(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def as_dict(self) -> dict[str, Any]:
        """The plan as a dict of values that JSON knows."""
        return asdict(self) | {"scales": list(self.scales)}

    def __str__(self) -> str:
        if not self.scales:
            return f"resized without a network ({self.reason})"
        tiles = f"{self.num_tiles} tiles of {self.columns.tile_size}x{self.rows.tile_size}"
        words = [tiles if self.num_tiles > 1 else "whole"]
        words += [f"in {len(self.scales)} passes ({'x'.join(map(str, self.scales))})"] if len(self.scales) > 1 else []
        words += [self.precision] if self.precision != "fp32" else []
        words += [f"by {self.engine}"] if self.engine != "torch" else []
        return f"{' '.join(words)} ({self.reason})"


def make_plan(
    cascade: Cascade,
    job: Job,
    *,
    tile: int | Literal["auto", "none"],
    budget: int,
    strict: bool,
    precision: Precision,
    engine: str = "torch",
    less: str = "",
) -> Plan:
    """Whole if that fits the budget, else the largest tiles that do; tiles that are asked for are taken.

    Args:
        strict: whether a plan that does not keep the budget is refused, or made all the same.
        less: said of one that is refused: what needs less.
    Raises: UsageError if refused.
    """
    sizes = [None, *_tile_sizes(cascade, engine)] if tile == "auto" else [None if tile == "none" else tile]
    needs: dict[int | None, int] = {}
    for size in sizes:
        needs[size] = predict(cascade, job, size, precision, engine)
        if needs[size] <= budget:
            break
    chosen = min(needs, key=lambda size: (needs[size] > budget, needs[size]))
    need, fitting = shown(needs[chosen]), needs[chosen] <= budget
    if not fitting and strict:
        how = "" if tile == "auto" else " whole" if tile == "none" else f" in tiles of {tile}"
        raise UsageError(
            f"a {job.width}x{job.height} picture to {job.new_width}x{job.new_height}{how} needs {need}, the memory "
            f"budget is {shown(budget)}; allow more with `memory`{less}"
        )
    if tile == "auto":
        reason = f"needs {need} {'of' if fitting else 'more than'} {shown(budget)}"
    else:
        reason = f"as asked, needs {need}"
    return Plan(
        job.height,
        job.width,
        job.new_height,
        job.new_width,
        cascade.scales,
        chosen,
        precision,
        needs[chosen],
        reason,
        engine,
    )


def predict(cascade: Cascade, job: Job, tile_size: int | None, precision: Precision, engine: str = "torch") -> int:
    """The most memory in bytes that will be in use beside the program, its libraries and the weights.

    Whole: the picture in float32 and the greater of two, the feature maps, and the upscaled picture with what is held
    of the result. In tiles: all of them together, and the upscaled row of tiles that they are blended into. But never
    less than reading the picture took.
    """
    computing = _computing(cascade, job, tile_size, precision, engine)
    return PROGRAM_BYTES + ENGINE_BYTES[engine] + max(job.reading, computing)


def _computing(cascade: Cascade, job: Job, tile_size: int | None, precision: Precision, engine: str) -> int:
    per_pixel = cascade.bytes_per_pixel(graph_share=None if engine == "torch" else ENGINE_SHARE[engine])
    channels = 4 if job.alpha else 3
    height, width = (Axis.cut(side, tile_size or side).tile_size for side in (job.height, job.width))
    tile_pixels, picture_pixels = height * width, job.height * job.width
    high = 4 * channels * cascade.scale**2  # bytes of an upscaled pixel of the picture
    scattered = 1 if tile_pixels == picture_pixels or engine != "torch" else SCATTERED[precision]
    compute = round(per_pixel * MEMORY_SHARE[precision] * tile_pixels * scattered)
    compute += high * tile_pixels if job.ensemble else 0
    handed_on = 8 * (high * job.width + 4 * channels * job.new_width) + 4 * BAND_BYTES  # with rows kept for resizing
    picture = (40 if job.alpha else 12) * picture_pixels  # with alpha: colours are filled in, in copies
    if tile_pixels == picture_pixels:
        return picture + max(compute, high * tile_pixels + job.held + handed_on)
    band = high * job.width * (height + min(OVERLAP, height // 3))
    return picture + job.held + band + compute + handed_on


def _tile_sizes(cascade: Cascade, engine: str) -> list[int]:
    """From the largest worth while to the smallest."""
    largest = max(LARGEST_TILE[engine] // cascade.before_last, 16)
    smallest = min(SMALLEST_TILE, largest)
    return [*range(largest, smallest, -STEP), smallest]
