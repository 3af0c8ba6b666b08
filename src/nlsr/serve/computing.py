"""What the server computes, one thing at a time: upscaling a file into another, and what that will take.

Knows nothing of HTTP and of queues. torch is imported when something is computed first.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlsr.errors import ImageError, ModelNotFoundError, NlsrError
from nlsr.serve.asked import Asked
from nlsr.serve.settings import Settings

if TYPE_CHECKING:
    from torch import nn

    from nlsr.images import Header
    from nlsr.networks import Network
    from nlsr.upscale import Plan, Upscaler
    from nlsr.upscale.batch import Done

KEPT = 8
"""Upscalers, and networks to explain, that stay in memory with their weights."""
PROBE_SIDE = 64
"""Side of the picture on which the speed of a model is measured before it has done any work."""
MANY = 100
"""Pictures that a server is expected to upscale, where an engine is chosen by what it takes to begin."""
PULSE = 0.2
"""Least seconds between two reports of progress within a tile, and between two looks whether somebody still waits."""
ALMOST = 0.99
"""The part of a tile that is done at most before it is done."""


class Cancelled(NlsrError):
    """A computation that nobody waits for any more."""


@dataclass(frozen=True)
class Estimate:
    """What an upscaling will take; `seconds` is None while the speed of the model is not known."""

    width: int
    height: int
    new_width: int
    new_height: int
    tiles: int
    memory: int
    seconds: float | None
    plan: str


class Computing:
    """The one place where networks run."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.closing = threading.Event()
        """When it is set, what is computed ends soon."""
        self.showing = threading.Lock()
        """Held while a picture is decoded only to be looked at: one at a time, whatever is computed meanwhile."""
        self._one_at_a_time = threading.Lock()
        self._upscalers: OrderedDict[str, Upscaler] = OrderedDict()
        self._networks: OrderedDict[str, Network] = OrderedDict()
        self._seconds: dict[tuple[Any, ...], float] = {}
        self._rhythms: dict[tuple[Any, ...], list[float]] = {}
        self._guard = threading.Lock()
        self._computed = False

    @contextmanager
    def turn(
        self,
        modules: "Iterable[nn.Module]",
        cancelled: threading.Event,
        pulse: Callable[[], object] = lambda: None,
        *,
        wait: bool = True,
    ) -> Iterator[None]:
        """Inside, nothing else is computed.

        Args:
            modules: the networks that will run; before each of their layers, which may take seconds, it is looked
                whether anybody still waits.
            cancelled: when it is set, nobody does.
            pulse: called before each layer.
            wait: until nothing else is computed; otherwise that counts as cancelled.
        Raises: Cancelled.
        """

        def look(*_: Any) -> None:
            if cancelled.is_set() or self.closing.is_set():
                raise Cancelled("cancelled")

        def before_layer(*_: Any) -> None:
            look()
            pulse()

        while not self._one_at_a_time.acquire(blocking=wait, timeout=PULSE if wait else -1):
            if not wait:
                raise Cancelled("something else is computed")
            look()
        hooks = []
        try:
            self._computed = True
            look()
            hooks += [layer.register_forward_pre_hook(before_layer) for each in modules for layer in each.modules()]
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._one_at_a_time.release()

    @property
    def budget(self) -> int:
        """Bytes of memory for a computation."""
        import torch

        from nlsr.memory import default_budget

        return self.settings.memory or default_budget(torch.device(self.settings.device))

    def upscaler(self, asked: Asked) -> "Upscaler":
        """Raises: as `Upscaler` does, and ModelNotFoundError for a model that is not offered."""
        from nlsr.upscale import Upscaler

        arguments = asked.of_upscaler()
        model = self.file_of(asked.model)
        return self._kept(
            self._upscalers,
            f"{model} {arguments}",
            lambda: Upscaler(
                model,
                memory=self.budget,
                device=self.settings.device,
                engine=self.settings.engine,
                pictures=MANY,
                **arguments,
            ),
        )

    def network(self, model: str, scale: int | None = None) -> "Network":
        """A network that the models of the server have. Raises: as `nlsr.load` does."""
        from nlsr.weights import load

        settings = {} if scale is None else {"scale": scale}
        file = self.file_of(model)
        return self._kept(
            self._networks, f"{file} {scale}", lambda: load(file, device=self.settings.device, **settings)
        )

    def file_of(self, model: str) -> "str | Path":
        """What a name means to `nlsr.load`. Raises: ModelNotFoundError: a client names no files."""
        from nlsr.weights.catalogue import available, family

        if model in self.settings.models:
            return self.settings.models[model]
        if model in available() or family(model):
            return model
        there_is = ", ".join([*self.settings.models, *available()])
        raise ModelNotFoundError(f"no model is named '{model[:80]}'; there are: {there_is}")

    def header(self, picture: Path) -> "Header":
        """What a file is, before its pixels are decoded. Raises: ImageError, as `nlsr.images.read`."""
        from nlsr.images import read_header

        return read_header(picture, max_pixels=self.settings.max_pixels)

    def estimate(self, asked: Asked, header: "Header") -> Estimate:
        """Raises: as a command does for what cannot be done, before anything is computed."""
        from nlsr.upscale.batch import colour

        colour(asked.background)
        plan = self._plan(asked, header)
        self._check_result(plan)
        size = plan.new_width, plan.new_height
        return Estimate(
            header.width, header.height, *size, plan.num_tiles, plan.predicted, self._time(asked, plan), str(plan)
        )

    def upscale(
        self, source: Path, target: Path, asked: Asked, *, cancelled: threading.Event, report: Callable[[float], None]
    ) -> "Done":
        """Upscale a file into another.

        Args:
            cancelled: when it is set, the computation ends soon.
            report: called with the part that is done, 0 to 1.
        Raises: Cancelled, and what `header` raises. Other errors are in what is given back.
        """
        from nlsr.upscale.batch import Saving, Task, colour, run

        upscaler = self.upscaler(asked)
        plan = self._plan(asked, self.header(source))
        networks = _networks(upscaler, plan)
        layers = sum(1 for network in networks for _ in network.modules()) * (8 if asked.ensemble else 1)
        progress = _Progress(plan.num_tiles, layers, self._rhythms.get(_speed_key(asked, plan)), report)
        saving = Saving(
            format=asked.format,
            quality=asked.quality,
            strip=asked.strip,
            tone_map=asked.tone_map,
            background=colour(asked.background),
            max_pixels=self.settings.max_pixels,
        )
        with self.turn(networks, cancelled, progress.layer):
            progress.begin()
            (done,) = run(upscaler, [Task(source, target)], saving, report=progress.tile)
        if isinstance(done.error, Cancelled):
            raise done.error
        if done.outcome is not None:
            self._learn(asked, done.outcome.plan, done.outcome.seconds, progress.rhythm)
        return done

    def _plan(self, asked: Asked, header: "Header") -> "Plan":
        from nlsr.images import format_named

        return self.upscaler(asked).plan_file(header, format=format_named(asked.format))

    def give_back(self) -> None:
        """Free to the system what earlier computations took, if there were any."""
        if self._computed:
            from nlsr.memory import give_back

            self._computed = False
            give_back()

    def _check_result(self, plan: "Plan") -> None:
        pixels, limit = plan.new_width * plan.new_height, self.settings.max_result_pixels
        if pixels > limit:
            raise ImageError(
                f"the result would have {plan.new_width}×{plan.new_height} pixels ({pixels / 1e6:.1f} million), the "
                f"limit is {limit / 1e6:.6g} million; ask for a smaller size"
            )

    def _time(self, asked: Asked, plan: "Plan") -> float | None:
        if not plan.scales:
            return 0.0
        key = _speed_key(asked, plan)
        if key not in self._seconds:
            self._probe(asked, plan)
        rate = self._seconds.get(key)
        return None if rate is None else rate * plan.height * plan.width

    def _probe(self, asked: Asked, plan: "Plan") -> None:
        """Measure the speed of a model, unless something is computed now."""
        import torch

        from nlsr.images import Picture

        scaled = {"width": None, "height": None, "fit": None, "scale": float(max(plan.scales))}
        upscaler = self.upscaler(asked.model_copy(update=scaled | {"tile": "none"}))
        picture = Picture(torch.full((1, 3, PROBE_SIDE, PROBE_SIDE), 0.5))
        progress = _Progress(1, 1, None, lambda part: None)
        with suppress(Cancelled), self.turn(_networks(upscaler, plan), threading.Event(), progress.layer, wait=False):
            upscaler.upscale(picture)  # the first is slower
            progress.begin()
            seconds = upscaler.upscale(picture, report=progress.tile).seconds
            self._learn(asked, plan, seconds * plan.height * plan.width / PROBE_SIDE**2, progress.rhythm)

    def _learn(self, asked: Asked, plan: "Plan", seconds: float, rhythm: list[float]) -> None:
        key = _speed_key(asked, plan)
        self._seconds[key] = seconds / (plan.height * plan.width)
        self._rhythms[key] = rhythm

    def _kept(self, shelf: "OrderedDict[str, Any]", key: str, make: Callable[[], Any]) -> Any:
        with self._guard:
            if key not in shelf:
                shelf[key] = make()
                if len(shelf) > KEPT:
                    shelf.popitem(last=False)
            shelf.move_to_end(key)
            return shelf[key]


def _speed_key(asked: Asked, plan: "Plan") -> tuple[Any, ...]:
    return asked.model, plan.scales, plan.precision, asked.ensemble


def _networks(upscaler: "Upscaler", plan: "Plan") -> list[Any]:
    """The networks that a plan runs, each once."""
    return list({id(network): network for step in plan.scales for network in [upscaler.models.network(step)]}.values())


class _Progress:
    """The part that is done: whole tiles, and within a tile the layers that ran, weighed by the time that they took in
    the tile before, or when the speed of the model was measured."""

    def __init__(self, tiles: int, layers: int, rhythm: list[float] | None, report: Callable[[float], object]) -> None:
        """
        Args:
            layers: about how many run for a tile.
            rhythm: of each layer, in the order they run, the part of a tile's time before it; None if not known, when
                all count alike.
        """
        self.rhythm = rhythm or [layer / layers for layer in range(layers)]
        self._done, self._tiles, self._report = 0, tiles, report
        self.begin()

    def begin(self) -> None:
        """A tile begins."""
        self._began = self._told = time.monotonic()
        self._layers: list[float] = []

    def layer(self) -> None:
        """A layer begins."""
        now = time.monotonic()
        self._layers.append(now - self._began)
        if now - self._told >= PULSE:
            self._told = now
            place = len(self._layers) - 1
            within = self.rhythm[place] if place < len(self.rhythm) else ALMOST
            self._report((self._done + min(within, ALMOST)) / self._tiles)

    def tile(self, done: int, tiles: int) -> None:
        """A tile is done, of so many."""
        took = time.monotonic() - self._began
        if self._layers and took > 0:
            self.rhythm = [began / took for began in self._layers]
        self._done, self._tiles = done, tiles
        self._report(done / tiles)
        self.begin()


def readable(error: Exception, names: dict[Path, str]) -> str:
    """The message of an error with the names that a client knows in place of private files."""
    from nlsr.images import one_line

    text = str(error)
    for path, name in names.items():
        text = text.replace(one_line(path), name).replace(str(path), name)
    return text
