"""The front door: a picture in, a larger picture out, whole or in tiles, within a memory budget."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nlsr.errors import ShapeError, UsageError
from nlsr.images import Picture, read, resize
from nlsr.networks import Network
from nlsr.upscale.memory import SMALLEST_TILE, default_budget, largest_tile
from nlsr.upscale.tiles import Plan, plan
from nlsr.weights import load

Report = Callable[[int, int], None]
"""Called with the number of tiles done and the number of all."""

DEFAULT_MODEL = "lcoan-light-x4"


@dataclass(frozen=True)
class Result:
    """An upscaled picture and how it was made."""

    picture: Picture
    plan: Plan
    seconds: float


class Upscaler:
    """Enlarges pictures with one network.

        larger = nlsr.Upscaler()("photo.jpg")          # float32 RGB tensor (1, 3, 4h, 4w) in [0, 1]

    Equal calls give equal results, and the plan depends on sizes and budget alone.
    """

    def __init__(
        self,
        model: str | Path | Network = DEFAULT_MODEL,
        *,
        tile: int | Literal["auto", "none"] = "auto",
        memory: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        """
        Args:
            model: a name of packaged weights, a weight file, or a network.
            tile: side of a tile in low-res pixels; "none" takes every image whole; "auto" what the budget allows.
            memory: the budget in bytes, for what comes on top of the running program; default: a quarter of the
                machine's memory, which a picture too large for it exceeds, in the smallest tiles, rather than fail.
            device: where the network runs.
        Raises: CheckpointError for a model that cannot be loaded, UsageError for a wrong tile.
        """
        if isinstance(tile, int) and tile < 16:
            raise UsageError(f"expected a tile of at least 16 pixels, got {tile}")
        network = model if isinstance(model, Network) else load(model)
        # Convolutions of few channels are up to three times as fast on a processor if channels lie together.
        self.network = network.eval().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.tile, self.memory, self.device = tile, memory, torch.device(device)

    @property
    def scale(self) -> int:
        return self.network.scale

    def __call__(
        self, image: str | Path | Float[Tensor, "1 3 h w"], *, report: Report | None = None
    ) -> Float[Tensor, "1 3 sh sw"]:
        """Upscale a file or a float32 RGB tensor in [0, 1]; the result is float32 in [0, 1].

        Raises: ImageError for a file that cannot be read, ShapeError for a tensor of another shape.
        """
        pixels = image if isinstance(image, Tensor) else read(image).pixels
        if pixels.ndim != 4 or pixels.shape[:2] != (1, 3):
            raise ShapeError(f"expected an image (1, 3, height, width), got {tuple(pixels.shape)}")
        result = torch.empty(1, 3, *(side * self.scale for side in pixels.shape[2:]))
        for top, band in self._bands(pixels, self.plan(*pixels.shape[2:]), report):
            result[0, :, top : top + band.shape[1]] = band
        return result

    def upscale(self, picture: Picture, *, report: Report | None = None) -> Result:
        """Upscale a picture as read from a file; what it carries beside its pixels is carried on.

        The result holds integers of the picture's depth (16 bits for float pictures): a large one must fit in memory.
        """
        started = time.monotonic()
        height, width = picture.pixels.shape[2:]
        chosen = self.plan(height, width)
        dtype, top_value = (torch.uint8, 255) if picture.depth == 8 else (torch.uint16, 65535)
        canvas = torch.empty(height * self.scale, width * self.scale, 3, dtype=dtype)
        for top, band in self._bands(picture.pixels, chosen, report):
            rows = band.permute(1, 2, 0).mul(top_value).round_()
            canvas[top : top + len(rows)] = rows.to(dtype) if dtype == torch.uint8 else rows.to(torch.int32).to(dtype)
        alpha = picture.alpha
        if alpha is not None:
            alpha = resize(alpha, scale=self.scale).clamp_(0, 1)
        depth = 8 if picture.depth == 8 else 16
        larger = replace(picture, pixels=canvas.permute(2, 0, 1)[None], alpha=alpha, depth=depth)
        return Result(larger, chosen, time.monotonic() - started)

    def plan(self, height: int, width: int) -> Plan:
        """Whole or tiled, for an image of this size."""
        if self.tile == "none":
            return plan(height, width, tile_size=None, reason="as asked")
        if self.tile != "auto":
            return plan(height, width, tile_size=self.tile, reason="as asked")
        budget = self.memory or default_budget()
        try:
            tile_size = largest_tile(self.network, height, width, budget)
        except UsageError:
            if self.memory is not None:
                raise
            return plan(height, width, tile_size=SMALLEST_TILE, reason=f"needs more than {budget / 2**30:.2g} GiB")
        verb = "fits" if tile_size is None else "fit"
        return plan(height, width, tile_size=tile_size, reason=f"{verb} in {budget / 2**30:.2g} GiB")

    def _bands(self, pixels: Tensor, chosen: Plan, report: Report | None) -> Iterator[tuple[int, Tensor]]:
        """Finished high-res rows from top to bottom: (top row, (3, rows, width) in [0, 1])."""
        rows, scale = chosen.rows, self.scale
        kept: Tensor | None = None  # the lower edge of the band above, weighted, waiting for the next band
        done = 0
        for row, tiles in chosen.bands():
            top = rows.starts[row]
            band = torch.zeros(3, rows.tile_size * scale, chosen.columns.size * scale)
            for column, left in tiles:
                tile = pixels[:, :, top : top + rows.tile_size, left : left + chosen.columns.tile_size]
                weight = rows.weights(row, scale)[:, None] * chosen.columns.weights(column, scale)
                part = band[:, :, left * scale : (left + chosen.columns.tile_size) * scale]
                part.addcmul_(self._upscale_tile(tile), weight)
                done += 1
                if report:
                    report(done, chosen.num_tiles)
            if kept is not None:
                band[:, : kept.shape[1]] += kept
            waiting = rows.overlap_before(row + 1) * scale if row + 1 < len(rows.starts) else 0
            finished = band.shape[1] - waiting
            kept = band[:, finished:].clone() if waiting else None
            yield top * scale, band[:, :finished].clamp_(0, 1)

    @torch.inference_mode()
    def _upscale_tile(self, tile: Tensor) -> Tensor:
        low_res = tile.to(self.device).contiguous(memory_format=torch.channels_last)
        return self.network(low_res)[0].float().cpu()
