"""The front door: a picture in, a larger picture out, whole or in tiles, within a memory budget."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nlsr.default import DEFAULT_MODEL
from nlsr.devices import device_named
from nlsr.errors import ShapeError, UsageError
from nlsr.images import Header, Picture, check_target, encoder_bytes, holds_alpha, streams, write_bands
from nlsr.images.files import PathLike
from nlsr.memory import default_budget, parse_size
from nlsr.networks import Network
from nlsr.report import Report
from nlsr.upscale.arrays import as_picture
from nlsr.upscale.cascade import Models
from nlsr.upscale.engine import check_network, choose_precision, engine_named
from nlsr.upscale.figures import fastest_of
from nlsr.upscale.plan import Job, Plan, make_plan
from nlsr.upscale.precision import Precision
from nlsr.upscale.size import Size
from nlsr.upscale.stream import LAST_TILE, Stream

_SAMPLES = {8: torch.uint8, 16: torch.uint16, 32: torch.float32}


@dataclass(frozen=True)
class Outcome:
    """How a picture was upscaled; `notes` say what went otherwise than planned."""

    plan: Plan
    seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Result(Outcome):
    """An upscaled picture and how it was made."""

    picture: Picture


class Upscaler:
    """Enlarges pictures with one network, or with those of a family.

        larger = nlsr.Upscaler()("photo.jpg")                 # float32 RGB tensor (1, 3, 4h, 4w) in [0, 1]
        larger = nlsr.Upscaler(width=3840)(PIL.Image.open("photo.jpg"))    # a PIL image

    Equal calls give equal results, and the plan depends on sizes and budget alone.
    """

    def __init__(
        self,
        model: str | Path | Network | Callable[[Tensor], Tensor] = DEFAULT_MODEL,
        *,
        model_scale: int | None = None,
        scale: float | None = None,
        width: int | None = None,
        height: int | None = None,
        fit: tuple[int, int] | str | None = None,
        tile: int | Literal["auto", "none"] = "auto",
        memory: int | str | None = None,
        precision: Literal["auto"] | Precision = "auto",
        ensemble: bool = False,
        device: str | torch.device = "cpu",
        engine: str = "torch",
        pictures: int = 1,
    ) -> None:
        """
        Args:
            model: a name of packaged weights or of a family of them, a weight file, a network, or any module or
                function that makes (1, 3, scale * h, scale * w) of an image (1, 3, h, w) of every size, RGB in [0, 1].
            model_scale: how many times larger such a function makes an image; by default its attribute `scale`.
            scale, width, height, fit: the size of results, see `Size`; by default what the model makes (x4 for a
                family). Reached with the nearest sufficient scale of the model, or several passes above its largest,
                and one antialiased resize; a picture that becomes smaller is only resized.
            tile: side of a tile in low-res pixels; "none" takes every image whole; "auto" what the budget allows.
            memory: the budget in bytes or like "2GiB", for what comes on top of the running program; default: a quarter
                of the memory of machine and device, which a picture too large for it exceeds, in the smallest tiles,
                rather than fail.
            precision: "auto" is bf16 for 8-bit pictures on processors made for it, else fp32.
            ensemble: average over eight flips and turns: a little better, eight times the time.
            device: where the network runs.
            engine: "torch", "onnxruntime" or "openvino"; "auto" is the one that was the fastest here for so many
                pictures when `nlsr benchmark engines` measured it, and torch if it never did.
            pictures: how many will be upscaled, for "auto".
        Raises: CheckpointError for a model that cannot be loaded, UsageError for anything else that is wrong.
        """
        if tile not in ("auto", "none") and not (isinstance(tile, int) and tile >= LAST_TILE):
            raise UsageError(f"`tile={tile}`: expected 'auto', 'none' or a number of pixels from {LAST_TILE} up")
        if isinstance(memory, str):
            memory = parse_size(memory)
        if memory is not None and memory <= 0:
            raise UsageError(f"expected a memory budget above 0 bytes, got {memory}")
        self.size = Size(scale, width, height, fit)
        self.device = device_named(device)
        self.tile, self.memory = tile, memory
        self.budget = memory or default_budget(self.device)
        """Bytes; those of the machine where the upscaler was made, wherever it is sent."""
        self.precision, self.ensemble = precision, ensemble
        if engine != "auto":
            self._engine = engine_named(engine, self.device)
            choose_precision(self._engine, precision, self.device, depth=8)
        self.models = Models(model, self.device, model_scale=model_scale, limit=memory)
        if engine == "auto":
            fastest = fastest_of(self.models, precision, pictures) if self.device.type == "cpu" else "torch"
            self._engine = engine_named(fastest, self.device)
        if self._engine is not None:
            for step in self.models.scales:
                check_network(self._engine, self.models.network(step))
        choose_precision(self._engine, precision, self.device, depth=8, made_for=self.models.half_precisions)

    @property
    def engine_name(self) -> str:
        """What computes."""
        return "torch" if self._engine is None else self._engine.name

    @property
    def scale(self) -> int:
        """What the model enlarges by if no size is asked for."""
        return self.models.scales[-1]

    def __call__(self, image: Any, *, report: Report | None = None) -> Any:
        """Upscale what a program holds, and give the same kind back.

        Args:
            image: a path, which gives float32 RGB (1, 3, h, w) in [0, 1]; a tensor (1, 3, h, w) or (3, h, w), a numpy
                array (h, w), (h, w, 3) or (h, w, 4) - floating point in [0, 1], uint8 or uint16 -, a PIL image or a
                Picture, which give their own kind and dtype. A fourth channel is alpha.
            report: called after each tile.
        Raises: ImageError for a file that cannot be read, ShapeError for anything of another shape or dtype, UsageError
            for what does not fit a budget that was given, of files before their pixels are read.
        """
        picture, back = as_picture(image, check=self._check_header)
        if isinstance(image, str | os.PathLike):
            picture = replace(picture, depth=32)  # the result is floating point
        return back(self.upscale(picture, report=report).picture)

    def upscale(self, picture: Picture, *, plan: Plan | None = None, report: Report | None = None) -> Result:
        """Upscale a picture; what it carries beside its pixels is carried on.

        The result has the picture's depth, integers for 8 and 16 bits, and stands in memory; `save` streams it.

        Args:
            plan: one made before, so that a repetition is done in the same way.
        Raises: UsageError if the picture does not fit the budget, ImageError if it does not fit in memory.
        """
        started = time.monotonic()
        _check_pixels(picture)
        stream = self.stream(picture, plan or self._plan_of(picture), report=report)
        height, width = stream.plan.new_height, stream.plan.new_width
        dtype = _SAMPLES[picture.depth]
        pixels = _canvas(3, height, width, dtype)
        alpha = None if picture.alpha is None else _canvas(1, height, width, dtype)
        top = 0
        for colours, opacity in stream:
            bottom = top + colours.shape[1]
            pixels[:, top:bottom] = _as_samples(colours, dtype)
            if alpha is not None and opacity is not None:
                alpha[:, top:bottom] = _as_samples(opacity, dtype)
            top = bottom
        larger = replace(picture, pixels=pixels[None], alpha=None if alpha is None else alpha[None])
        return Result(stream.plan, time.monotonic() - started, tuple(stream.notes), larger)

    def save(
        self,
        picture: Picture,
        path: PathLike,
        *,
        plan: Plan | None = None,
        quality: int | None = None,
        overwrite: bool = False,
        format: str | None = None,
        report: Report | None = None,
    ) -> Outcome:
        """Upscale a picture into a file, which PNG and TIFF take band by band: the result never stands in memory.

        Args:
            plan, report: as in `upscale`. quality, overwrite, format: as `nlsr.images.write_bands` takes them.
        Raises: as `upscale` and `write_bands` do; before anything is computed for what can be known then.
        """
        started = time.monotonic()
        _check_pixels(picture)
        height, width = picture.pixels.shape[2:]
        _, new_height, new_width = self.size.of(height, width, otherwise=self.scale)
        alpha = picture.alpha is not None
        known = check_target(
            path,
            height=new_height,
            width=new_width,
            alpha=alpha,
            space=picture.space,
            overwrite=overwrite,
            format=format,
        )
        plan = plan or self.plan_file(Header(height, width, alpha, picture.depth, reading=0), format=known)
        stream = self.stream(picture, plan, report=report)
        lost = write_bands(
            path, picture, new_height, new_width, stream, quality=quality, overwrite=overwrite, format=format
        )
        return Outcome(stream.plan, time.monotonic() - started, (*stream.notes, *lost))

    def stream(self, picture: Picture, plan: Plan, *, report: Report | None = None) -> Stream:
        """The bands of finished rows of an upscaled picture, computed when they are asked for.

        Raises: UsageError if the plan is one of another picture or model.
        """
        height, width = picture.pixels.shape[2:]
        wanted, *new_size = self.size.of(height, width, otherwise=self.scale)
        cascade = self.models.cascade(wanted)
        expected = (height, width, *new_size, cascade.scales)
        if expected != (plan.height, plan.width, plan.new_height, plan.new_width, plan.scales):
            raise UsageError(
                f"the plan is one for {plan.width}x{plan.height} to {plan.new_width}x{plan.new_height}, this is "
                f"{width}x{height} to {new_size[1]}x{new_size[0]}; make another"
            )
        return Stream(
            cascade,
            picture,
            plan,
            device=self.device,
            engine=self._engine,
            ensemble=self.ensemble,
            report=report,
        )

    def plan(
        self,
        height: int,
        width: int,
        *,
        depth: int = 8,
        alpha: bool = False,
        held: int | None = None,
        reading: int = 0,
    ) -> Plan:
        """How a picture of this size will be upscaled by `upscale`, whose result stands in memory.

        Args:
            depth: bits per sample of the picture.
            alpha: whether it has alpha.
            held: bytes that stay in memory beside the computation; by default the whole result as integers.
            reading: bytes that are taken while it is read from its file.
        Raises: UsageError if a budget was given that the plan does not keep.
        """
        _, new_height, new_width = self.size.of(height, width, otherwise=self.scale)
        if held is None:
            held = new_height * new_width * (4 if alpha else 3) * _SAMPLES[depth].itemsize
        return self._plan(height, width, depth, alpha, held, reading, strict=self.memory is not None)

    def plan_file(self, header: Header, *, format: str, alike: int = 1) -> Plan:
        """How a picture with this header will be upscaled by `save`, into a file of this format.

        Args:
            format: as `nlsr.images.check_target` names it.
            alike: how many pictures of this size follow each other.
        Raises: UsageError if a budget was given that the plan does not keep, or if the result of a format that is
            written in one piece would exceed the machine's.
        """
        height, width, alpha = header.height, header.width, header.alpha and holds_alpha(format)
        _, new_height, new_width = self.size.of(height, width, otherwise=self.scale)
        held = encoder_bytes(format, new_height, new_width)
        in_one_piece = not streams(format)
        strict = self.memory is not None or (in_one_piece and held > self.budget)
        less = f", or write PNG or TIFF: {format} is written in one piece" if in_one_piece else ""
        plan = self._plan(height, width, header.depth, alpha, held, header.reading, strict=strict, less=less)
        return replace(plan, alike=alike)

    def _plan(
        self, height: int, width: int, depth: int, alpha: bool, held: int, reading: int, *, strict: bool, less: str = ""
    ) -> Plan:
        wanted, new_height, new_width = self.size.of(height, width, otherwise=self.scale)
        return make_plan(
            self.models.cascade(wanted),
            Job(height, width, new_height, new_width, alpha, held, reading, self.ensemble),
            tile=self.tile,
            budget=self.budget,
            strict=strict,
            precision=choose_precision(
                self._engine, self.precision, self.device, depth, made_for=self.models.half_precisions
            ),
            engine=self.engine_name,
            less=less,
        )

    def _plan_of(self, picture: Picture) -> Plan:
        return self.plan(*picture.pixels.shape[2:], depth=picture.depth, alpha=picture.alpha is not None)

    def _check_header(self, header: Header) -> None:
        self.plan(header.height, header.width, depth=32, alpha=header.alpha, reading=header.reading)


def _check_pixels(picture: Picture) -> None:
    shape = tuple(picture.pixels.shape)
    if len(shape) != 4 or shape[:2] != (1, 3) or 0 in shape:
        raise ShapeError(f"expected pixels (1, 3, height, width), got {shape}; upscale pictures one by one")


def _canvas(channels: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """Integers lie channel-last, as files store them."""
    if dtype.is_floating_point:
        return torch.empty(channels, height, width, dtype=dtype)
    return torch.empty(height, width, channels, dtype=dtype).permute(2, 0, 1)


def _as_samples(band: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype.is_floating_point:
        return band
    return band.mul(torch.iinfo(dtype).max).round_().to(torch.int32).to(dtype)
