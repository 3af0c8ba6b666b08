"""One picture on its way through the networks: bands of finished rows come out, from top to bottom.

What goes otherwise than planned is put right here and noted: memory that runs out in spite of the plan, and values
that overflow in half precision.
"""

from collections.abc import Iterator
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from nlsr.errors import ImageError, NotFiniteError
from nlsr.images import Picture, as_float, bleed
from nlsr.memory import out_of_memory
from nlsr.report import Report
from nlsr.upscale.bands import pieces, resize_bands
from nlsr.upscale.cascade import Cascade
from nlsr.upscale.engine import Engine, EngineFailed
from nlsr.upscale.ensemble import ensemble
from nlsr.upscale.plan import Plan
from nlsr.upscale.precision import Precision, computing_in
from nlsr.upscale.tiles import OVERLAP, Axis

LAST_TILE = 16
"""The smallest tile that is tried when memory runs out."""

GREY_WEIGHTS = (0.299, 0.587, 0.114)  # BT.601, full range


class Stream:
    """The bands of an upscaled picture, to be taken once; afterwards `notes` says what was not as planned."""

    def __init__(
        self,
        cascade: Cascade,
        picture: Picture,
        plan: Plan,
        *,
        device: torch.device,
        engine: Engine | None = None,
        ensemble: bool = False,
        report: Report | None = None,
    ) -> None:
        self.plan, self.notes = plan, list[str]()
        self._cascade, self._picture = cascade, picture
        self._device, self._ensemble, self._report = device, ensemble, report
        self._engine = engine
        self._alpha = picture.alpha
        self._pixels = picture.pixels
        self._repeated = self._tiles_done = self._num_tiles = 0

    def __iter__(self) -> Iterator[tuple[Float[Tensor, "3 r w"], Float[Tensor, "1 r w"] | None]]:
        """Colours and alpha of finished rows, in [0, 1]. Raises: ImageError if memory does not do for any tile."""
        opaque = self._picture.alpha is not None and is_opaque(self._picture.alpha)
        if opaque:
            self._alpha = None
        elif self._alpha is not None:
            self._alpha = as_float(self._alpha)
            # What files hold under transparent pixels is arbitrary, and the network would carry it over their border.
            self._pixels = bleed(as_float(self._pixels), self._alpha)
        plan, scale = self.plan, self._cascade.scale
        bands = resize_bands(
            self._rows(),
            height=plan.height * scale,
            width=plan.width * scale,
            new_height=plan.new_height,
            new_width=plan.new_width,
        )
        for band in bands:
            finished = band.clamp_(0, 1)  # resizing overshoots
            colours = _grey(finished[:3]) if self._picture.grey else finished[:3]
            alpha = finished[3:] if self._alpha is not None else None
            yield colours, torch.ones_like(finished[:1]) if opaque else alpha
        if self._repeated:
            tiles = "1 tile overflowed" if self._repeated == 1 else f"{self._repeated} tiles overflowed"
            repeated = "was" if self._repeated == 1 else "were"
            self.notes.append(f"{tiles} in {plan.precision} and {repeated} repeated in fp32")

    def _rows(self) -> Iterator[Float[Tensor, "c r w"]]:
        """High-res rows, in smaller tiles from the row on at which memory runs out."""
        height, width = self.plan.height, self.plan.width
        tile_size = min(self.plan.tile_size or max(height, width), max(height, width))
        done = 0
        while done < height:
            try:
                for band in self._blended(done, tile_size):
                    for piece in pieces(band, multiple=self._cascade.scale):
                        done += piece.shape[1] // self._cascade.scale
                        yield piece
                    del band  # before the next one is made
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if tile_size <= LAST_TILE:
                    raise ImageError(
                        f"a {width}x{height} picture does not fit in memory even in tiles of {tile_size} pixels; "
                        "close other programs or make it smaller"
                    ) from None
                tile_size = max(LAST_TILE, tile_size // 2)
                self.notes.append(f"memory ran out after {done} of {height} rows: continued in tiles of {tile_size}")

    def _blended(self, start: int, tile_size: int) -> Iterator[Float[Tensor, "c r w"]]:
        """High-res rows of the picture from a low-res row on, a row of tiles at a time."""
        scale = self._cascade.scale
        above = min(OVERLAP, start)  # rows that are done already, seen again for their neighbours' sake
        rows = Axis.cut(self.plan.height - start + above, tile_size)
        columns = Axis.cut(self.plan.width, tile_size)
        self._num_tiles = self._tiles_done + len(rows.starts) * len(columns.starts)
        skipped = above * scale
        kept: Tensor | None = None  # the lower edge of the band above, weighted, waiting for the next band
        for row in range(len(rows.starts)):
            band = self._row_of_tiles(start - above, row, rows, columns)
            if kept is not None:
                band[:, : kept.shape[1]] += kept
            finished = band.shape[1] - rows.overlap_before(row + 1) * scale
            kept = band[:, finished:].clone() if finished < band.shape[1] else None
            yield band[:, min(skipped, finished) : finished]
            skipped -= min(skipped, finished)
            del band  # before the next one is made

    def _row_of_tiles(self, top: int, row: int, rows: Axis, columns: Axis) -> Float[Tensor, "c sh sw"]:
        """The sum of the weighted tiles of a row; `top` is where the first row of tiles begins."""
        scale = self._cascade.scale
        band: Tensor | None = None
        for column, left in enumerate(columns.starts):
            upscaled = self._upscale(top + rows.starts[row], left, rows.tile_size, columns.tile_size)
            self._tiles_done += 1
            if self._report:
                self._report(self._tiles_done, self._num_tiles)
            if len(rows.starts) == len(columns.starts) == 1:
                return upscaled
            if band is None:
                band = upscaled.new_zeros(*upscaled.shape[:2], columns.size * scale)
            weight = rows.weights(row, scale)[:, None] * columns.weights(column, scale)
            band[:, :, left * scale : (left + columns.tile_size) * scale].addcmul_(upscaled, weight)
            del upscaled, weight  # before the next tile is computed
        assert band is not None
        return band

    @torch.no_grad()
    def _upscale(self, top: int, left: int, height: int, width: int) -> Float[Tensor, "c sh sw"]:
        """A tile of colours, and of alpha as a grey picture through the same networks."""
        part = (..., slice(top, top + height), slice(left, left + width))
        colours = self._through_networks(as_float(self._pixels[part]))[0]
        if self._alpha is None:
            return colours
        alpha = self._alpha[part]
        first = alpha[..., 0, 0]
        if bool((alpha == first).all()):
            upscaled = first.to(colours.dtype).expand(1, *colours.shape[1:])
        else:
            upscaled = self._through_networks(alpha.expand(-1, 3, -1, -1)).mean(1)
        return torch.cat((colours, upscaled))

    def _through_networks(self, low_res: Tensor) -> Tensor:
        low_res = low_res.to(self._device)
        upscaled = ensemble(self._finite, low_res) if self._ensemble else self._finite(low_res)
        return upscaled.cpu()

    def _finite(self, low_res: Tensor) -> Tensor:
        """Upscaled as planned, or in float32 if that gives other than finite values."""
        upscaled = self._computed(low_res, self.plan.precision)
        if upscaled is None and self.plan.precision != "fp32":
            self._repeated += 1
            upscaled = self._computed(low_res, "fp32")
        if upscaled is None:
            raise ImageError("the network gave NaN or infinity in fp32 too; the picture or the weights hold some")
        return upscaled

    def _computed(self, low_res: Tensor, precision: Precision) -> Tensor | None:
        """None if other than finite values came."""
        try:
            with computing_in(precision, self._device):
                upscaled = self._run(low_res, precision).float()
        except NotFiniteError:
            return None
        # One pass and one number: a sum is finite only if all that is summed is.
        return upscaled if upscaled.sum(dtype=torch.float32).isfinite() else None

    def _run(self, low_res: Tensor, precision: Precision) -> Tensor:
        """By the engine; where it fails torch goes on."""
        engine = self._engine
        if engine is not None:
            times = self.plan.num_tiles * self.plan.alike
            try:
                return self._cascade(low_res, partial(engine.run, precision=precision, times=times))
            except EngineFailed as error:
                height, width = low_res.shape[2:]
                self._engine = None
                self.notes.append(f"{engine.name} failed on {width}x{height} pixels ({error}): torch went on")
        return self._cascade(low_res.contiguous(memory_format=torch.channels_last))


def is_opaque(alpha: Tensor) -> bool:
    white = 1 if alpha.is_floating_point() else torch.iinfo(alpha.dtype).max
    return bool((alpha == white).all())


def _grey(colours: Tensor) -> Tensor:
    """Equal channels: a network leaves them almost equal."""
    weights = torch.tensor(GREY_WEIGHTS).view(3, 1, 1)
    return (colours * weights).sum(0, keepdim=True).expand(3, -1, -1)
