"""Where a pixel comes from, for many pixels of a picture: it is matched once and then asked for rows.

Knows nothing of HTTP.
"""

import base64
import io
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlsr.errors import NlsrError
from nlsr.serve.computing import Computing

if TYPE_CHECKING:
    from torch import Tensor

    from nlsr.explain import Matched, Region

KEPT_PICTURES, KEPT_MATCHES = 4, 6
"""Pictures, and affinities on them, that stay in memory."""
SHARE = 8
"""The pictures but for the last take at most this part of the memory budget."""


class Gone(NlsrError):
    """A picture that is not in memory any more."""


@dataclass(frozen=True, eq=False)
class _Match:
    region: "Region"
    matched: "Matched | None"


class Explorer:
    """Pictures that are looked into, and what was matched on them."""

    def __init__(self, computing: Computing) -> None:
        self._computing = computing
        self._pictures: OrderedDict[str, Tensor] = OrderedDict()
        self._matches: OrderedDict[tuple[Any, ...], list[_Match]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, file: Path, key: str = "") -> str:
        """Keep the picture of a file; the id by which it is asked about. Raises: ImageError.

        Args:
            key: the id, where the picture has one already.
        """
        from nlsr.images import filled, read

        with self._lock:
            if key in self._pictures:
                return key
        with self._computing.showing:
            pixels = filled(read(file, max_pixels=self._computing.settings.max_pixels))
        pixels = pixels.to(self._computing.settings.device)
        id = key or secrets.token_urlsafe(12)
        with self._lock:
            self._pictures[id] = pixels
            while len(self._pictures) > 1 and (
                len(self._pictures) > KEPT_PICTURES or self._held() > self._computing.budget // SHARE
            ):
                self._drop(next(iter(self._pictures)))
        return id

    def forget(self, id: str) -> None:
        """Drop a picture, if it is there."""
        with self._lock:
            self._drop(id)

    def ask(
        self, id: str, at: tuple[int, int], *, model: str, affinity: int, count: int, cancelled: threading.Event
    ) -> dict[str, Any]:
        """What a pixel draws on, as JSON values; maps are grey PNG in base64.

        Args:
            cancelled: when it is set, nobody waits for the answer.
        Raises: Gone for an unknown picture; Cancelled; UsageError, CheckpointError and ShapeError as
            `nlsr.explain.explain`.
        """
        begun = time.monotonic()
        pixels = self._picture(id)
        match, network_scale = self._match(id, pixels, at, model=model, affinity=affinity, cancelled=cancelled)
        told: dict[str, Any] = {
            "picture": id,
            "width": pixels.shape[3],
            "height": pixels.shape[2],
            "at": list(at),
            "model": model,
            "scale": network_scale,
            "region": _edges(match.region),
            "affinity": None,
        }
        if match.matched is not None:
            drawn = match.matched.sources(match.region.inside(*at), count=count)
            left, top = match.region.left, match.region.top
            strongest = drawn.strongest.tolist()
            groups = (
                None
                if drawn.groups is None
                else [int(codes[y, x]) for codes in drawn.groups for x, y in [match.region.inside(*at)]]
            )
            told["affinity"] = {
                "operator": drawn.operator,
                "index": drawn.index,
                "count": drawn.num_affinities,
                "sum": float(drawn.heat.sum()),
                "largest": float(drawn.heat.max()),
                "heat": _png((drawn.heat / drawn.heat.max().clamp(min=1e-30)).sqrt()),
                "strongest": [{"x": left + x, "y": top + y, "weight": float(drawn.heat[y, x])} for x, y in strongest],
                "reach": None if drawn.reach is None else _png(drawn.reach.double()),
                "reach_is": drawn.reach_is,
                "groups_are": drawn.groups_are,
                "group": groups,
                "same_group": None
                if drawn.groups is None or groups is None
                else _png((drawn.groups[0] == groups[0]).double()),
            }
        told["milliseconds"] = round(1000 * (time.monotonic() - begun))
        return told

    def attribution(
        self, id: str, at: tuple[int, int], *, model: str, steps: int, cancelled: threading.Event
    ) -> dict[str, Any]:
        """The local attribution map around a pixel, as JSON values. Raises: as `ask`."""
        from nlsr.explain import explain

        pixels, network = self._picture(id), self._computing.network(model)
        with self._computing.turn([network], cancelled):
            found = explain(network, pixels, at, steps=steps, region=16, memory=self._computing.budget)
        map, index = found.attribution.map, found.attribution.diffusion_index
        return {
            "region": _edges(found.attribution_region),
            "map": _png((map / map.max().clamp(min=1e-30)).sqrt()),
            "diffusion_index": None if index != index else index,
            "steps": steps,
        }

    def _drop(self, id: str) -> None:
        self._pictures.pop(id, None)
        for match in [match for match in self._matches if match[0] == id]:
            del self._matches[match]

    def _held(self) -> int:
        """Bytes of all pictures."""
        return sum(pixels.nbytes for pixels in self._pictures.values())

    def _picture(self, id: str) -> "Tensor":
        with self._lock:
            if id not in self._pictures:
                raise Gone("this picture is not in memory any more; send it again")
            self._pictures.move_to_end(id)
            return self._pictures[id]

    def _match(
        self,
        id: str,
        pixels: "Tensor",
        at: tuple[int, int],
        *,
        model: str,
        affinity: int,
        cancelled: threading.Event,
    ) -> tuple[_Match, int]:
        """What was matched before around this pixel, or now."""
        from nlsr.explain import Matched, matched_region

        network = self._computing.network(model)
        region = matched_region(network, pixels, at, budget=self._computing.budget)
        key = id, model, affinity
        with self._lock:
            known = next((match for match in self._matches.get(key, []) if _serves(match.region, at, pixels)), None)
        if known is None:
            with self._computing.turn([network], cancelled):
                known = _Match(region, Matched.of(network, region.of(pixels), index=affinity))
            with self._lock:
                self._matches[key] = [known]  # of a large picture one part at a time
                self._matches.move_to_end(key)
                while len(self._matches) > KEPT_MATCHES:
                    self._matches.popitem(last=False)
        return known, network.scale


def _serves(region: "Region", at: tuple[int, int], pixels: "Tensor") -> bool:
    """Whether a pixel lies well inside a part: no nearer to its edges than a quarter, but for those of the picture."""
    height, width = pixels.shape[2:]
    x, y = region.inside(*at)
    across = (x >= region.width // 4 or region.left == 0) and (
        x < region.width - region.width // 4 or region.left + region.width == width
    )
    down = (y >= region.height // 4 or region.top == 0) and (
        y < region.height - region.height // 4 or region.top + region.height == height
    )
    return 0 <= x < region.width and 0 <= y < region.height and across and down


def _edges(region: "Region") -> dict[str, int]:
    return {"left": region.left, "top": region.top, "width": region.width, "height": region.height}


def _png(map: "Tensor") -> str:
    """A map (h, w) in [0, 1] as a grey PNG of 8 bits, in base64."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray((map * 255).round().byte().cpu().numpy()).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()
