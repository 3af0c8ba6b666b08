"""The mean over the eight flips and turns of an image (geometric self-ensemble).

Source: Timofte et al., "Seven Ways to Improve Example-Based Single Image Super Resolution", CVPR 2016.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor


def ensemble(
    upscale: Callable[[Float[Tensor, "b 3 y x"]], Float[Tensor, "b 3 sy sx"]], low_res: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, "b 3 sh sw"]:
    """Upscale an image in all eight positions, turn the results back, and average them. Eight times the time."""
    total: Tensor | None = None
    for turns in range(4):
        for flipped in (False, True):
            turned = low_res.rot90(turns, (2, 3))
            upscaled = upscale(turned.flip(3) if flipped else turned)
            upright = (upscaled.flip(3) if flipped else upscaled).rot90(-turns, (2, 3))
            total = upright.clone() if total is None else total.add_(upright)
    assert total is not None
    return total.div_(8)
