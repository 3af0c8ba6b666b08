"""What the server computes, one thing at a time: upscaling a file into another, and what that will take.

Knows nothing of HTTP and of queues. torch is imported when something is computed first.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlsr.errors import ImageError, ModelNotFoundError, NlsrError
from nlsr.serve.asked import Asked
from nlsr.serve.settings import Settings

if TYPE_CHECKING:
    from nlsr.images import Header
    from nlsr.networks import Network
    from nlsr.upscale import Plan, Upscaler
    from nlsr.upscale.batch import Done

KEPT = 8
"""Upscalers, and networks to explain, that stay in memory with their weights."""
PROBE_SIDE = 64
"""Side of the picture on which the speed of a model is measured before it has done any work."""


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
        self._one_at_a_time = threading.Lock()
        self._upscalers: OrderedDict[str, Upscaler] = OrderedDict()
        self._networks: OrderedDict[str, Network] = OrderedDict()
        self._seconds: dict[tuple[Any, ...], float] = {}
        self._guard = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Inside, nothing else is computed."""
        with self._one_at_a_time:
            yield

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
            lambda: Upscaler(model, memory=self.budget, device=self.settings.device, **arguments),
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
        from nlsr.images import read

        def stop(header: "Header") -> None:
            raise _Seen(header)

        try:
            read(picture, max_pixels=self.settings.max_pixels, check=stop)
        except _Seen as seen:
            return seen.header
        raise AssertionError("a file was read without its header being checked")

    def estimate(self, asked: Asked, header: "Header") -> Estimate:
        """Raises: as a command does for what cannot be done, before anything is computed."""
        from nlsr.images import format_named, holds_alpha
        from nlsr.upscale.batch import colour

        colour(asked.background)
        upscaler = self.upscaler(asked)
        format = format_named(asked.format)
        plan = upscaler.plan_file(
            header.height,
            header.width,
            format=format,
            depth=header.depth,
            alpha=header.alpha and holds_alpha(format),
            reading=header.reading,
        )
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
        Raises: Cancelled. Other errors are in what is given back.
        """
        from nlsr.upscale.batch import Saving, Task, colour, run

        upscaler = self.upscaler(asked)

        def check(*_: Any) -> None:
            if cancelled.is_set():
                raise Cancelled("cancelled")

        def reported(done: int, tiles: int) -> None:
            check()
            report(done / tiles)

        saving = Saving(
            format=asked.format,
            quality=asked.quality,
            strip=asked.strip,
            tone_map=asked.tone_map,
            background=colour(asked.background),
            max_pixels=self.settings.max_pixels,
        )
        with self.turn(), _before_every_layer(upscaler, check):
            check()
            (done,) = run(upscaler, [Task(source, target)], saving, report=reported)
        if isinstance(done.error, Cancelled):
            raise done.error
        if done.outcome is not None:
            self._learn(asked, done.outcome.plan, done.outcome.seconds)
        return done

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

        if not self._one_at_a_time.acquire(blocking=False):
            return
        try:
            scaled = {"width": None, "height": None, "fit": None, "scale": float(max(plan.scales))}
            upscaler = self.upscaler(asked.model_copy(update=scaled | {"tile": "none"}))
            picture = Picture(torch.full((1, 3, PROBE_SIDE, PROBE_SIDE), 0.5))
            upscaler.upscale(picture)  # the first is slower
            self._learn(asked, plan, upscaler.upscale(picture).seconds * plan.height * plan.width / PROBE_SIDE**2)
        finally:
            self._one_at_a_time.release()

    def _learn(self, asked: Asked, plan: "Plan", seconds: float) -> None:
        self._seconds[_speed_key(asked, plan)] = seconds / (plan.height * plan.width)

    def _kept(self, shelf: "OrderedDict[str, Any]", key: str, make: Callable[[], Any]) -> Any:
        with self._guard:
            if key not in shelf:
                shelf[key] = make()
                if len(shelf) > KEPT:
                    shelf.popitem(last=False)
            shelf.move_to_end(key)
            return shelf[key]


class _Seen(NlsrError):
    def __init__(self, header: "Header") -> None:
        super().__init__("seen")
        self.header = header


def _speed_key(asked: Asked, plan: "Plan") -> tuple[Any, ...]:
    return asked.model, plan.scales, plan.precision, asked.ensemble


@contextmanager
def _before_every_layer(upscaler: "Upscaler", check: Callable[..., None]) -> Iterator[None]:
    """A tile takes seconds, so the layers of the networks are asked to check too."""
    layers = [
        layer
        for scale in upscaler.models.scales
        for network in upscaler.models.cascade(scale).networks
        for layer in network.modules()
    ]
    hooks = [layer.register_forward_pre_hook(check) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def readable(error: Exception, names: dict[Path, str]) -> str:
    """The message of an error with the names that a client knows in place of private files."""
    from nlsr.images import one_line

    text = str(error)
    for path, name in names.items():
        text = text.replace(one_line(path), name).replace(str(path), name)
    return text
