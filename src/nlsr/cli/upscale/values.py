"""What words of the command line stand for: models, tiles, memory. Knows nothing of files of pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nlsr.errors import UsageError
from nlsr.extras import require

if TYPE_CHECKING:
    import torch

    from nlsr.upscale import Upscaler


def network(name: str, settings: dict[str, Any]) -> Any:
    from nlsr.weights import load

    return load(name, **settings) if settings else name


def tile(text: str) -> "int | Literal['auto', 'none']":
    if text == "auto":
        return "auto"
    if text == "none":
        return "none"
    if text.isascii() and text.isdigit():
        return int(text)
    raise UsageError(f"--tile {text}: expected 'auto', 'none' or a number of pixels")


def budget(text: str | None, *, earlier: Path | None, device: "torch.device") -> int | None:
    """Bytes of memory; None for the machine's own.

    Args:
        earlier: the folder of a batch that continues, which keeps its budget unless another is given.
    """
    from nlsr.memory import default_budget, parse_size
    from nlsr.upscale.batch import conditions_of

    if text:
        return parse_size(text)
    conditions = conditions_of(earlier) if earlier is not None else {}
    memory = conditions.get("memory")
    if not isinstance(memory, int) or (not conditions.get("given") and memory == default_budget(device)):
        return None
    return memory


def check_ray(address: str | None, workers: int | None, folder: Path | None, *, compared: bool) -> None:
    """Raises: UsageError for what does not go with --ray, or does not go without it."""
    if address is None:
        if workers is not None:
            raise UsageError("--workers: expected --ray, whose workers are meant")
        return
    require("ray", extra="ray")
    if address.startswith("ray://"):
        raise UsageError(f"--ray {address}: expected local, auto or the address of the head, like head:6379")
    if folder is None:
        raise UsageError("--ray: expected -o FOLDER, where the record of what is finished lies")
    if compared:
        raise UsageError("--ray and --compare-whole: expected one of them")


def size_in_names(upscaler: "Upscaler") -> str:
    size = upscaler.size
    if size.fit is not None:
        return "{}x{}".format(*size.fit)
    if size.width or size.height:
        return f"w{size.width}" if size.width else f"h{size.height}"
    return f"x{size.scale or upscaler.scale:g}"


def short_name(model: str) -> str:
    """The name of a model, or what its file is called."""
    return Path(model).stem if Path(model).suffix else Path(model).name
