"""All pairs in the memory of one accelerator, and patches cut from them there: no batch is made or sent.

On an accelerator a small network learns faster than processors cut patches for it.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from nlsr.train.data.batches import Places, detail
from nlsr.train.data.pairs import Pairs

LARGEST_SHARE = 0.5
"""Of the free memory of an accelerator, what pairs may take."""


def fits(pairs: Pairs, device: torch.device) -> bool:
    """Whether a device is an accelerator that has room for all pairs beside a training."""
    if device.type != "cuda":
        return False
    copies = 1 + (2 if pairs.teacher else 1) * pairs.scale**2
    taken = 3 * copies * sum(height * width for height, width in pairs.sizes)
    return taken <= LARGEST_SHARE * torch.cuda.mem_get_info(device)[0]


class Resident:
    """Cuts what `Batches` cuts of the same places, of plain pairs: nothing degraded, zoomed, mixed or recoloured."""

    def __init__(self, pairs: Pairs, device: torch.device) -> None:
        numbers = range(len(pairs))
        self.scale, sizes = pairs.scale, torch.tensor(pairs.sizes, device=device)
        self.widths, areas = sizes[:, 1], sizes.prod(dim=1)
        self.firsts = areas.cumsum(0) - areas
        length = int(areas.sum())
        self.low = _pixels((pairs[i][0] for i in numbers), length, device)
        large = [(pairs[i][1] for i in numbers)]
        if pairs.teacher:
            large.append(pairs.taught(i) for i in numbers)
        self.large = [_pixels(images, length * self.scale**2, device) for images in large]

    def cut(self, places: Places, size: int) -> tuple[Float[Tensor, "b 3 _h _w"], ...]:
        """Low-res, high-res and perhaps taught patches, in [0, 1].

        Args:
            places: tensors on the device.
            size: side of the low-res patches.
        """
        images, corners, turns = self._most_detailed(places, size)
        patches = [self.low[self._index(images, corners, turns, size, 1)]]
        index = self._index(images, corners, turns, size, self.scale)
        patches += [pixels[index] for pixels in self.large]
        return tuple(_planes(patch).float().div_(255) for patch in patches)

    def _most_detailed(self, places: Places, size: int) -> tuple[Tensor, Tensor, Tensor]:
        images, corners, turns = places
        if images.shape[1] > 1:
            unturned = torch.zeros_like(images).flatten()
            index = self._index(images.flatten(), corners.flatten(0, 1), unturned, size, 1)
            found = detail(_planes(self.low[index]).to(torch.int16)).view(images.shape)
            best = torch.arange(len(images), device=images.device), found.argmax(dim=1)
            return images[best], corners[best], turns
        return images[:, 0], corners[:, 0], turns

    def _index(
        self, images: Int[Tensor, " b"], corners: Int[Tensor, "b 2"], turns: Int[Tensor, " b"], size: int, scale: int
    ) -> Int[Tensor, "b h w"]:
        """Where the pixels of turned patches lie; `scale` pixels to each low-res one."""
        side = torch.arange(size * scale, device=images.device)
        rows, columns = (
            corner[:, None] * scale + torch.where((turns & bit > 0)[:, None], side.flip(0), side)
            for corner, bit in zip(corners.unbind(1), (1, 2), strict=True)
        )
        rows = rows * (self.widths[images] * scale)[:, None] + (self.firsts[images] * scale**2)[:, None]
        index = rows[:, :, None] + columns[:, None, :]
        return torch.where((turns & 4 > 0)[:, None, None], index.mT, index)


def _pixels(images: Iterator[Tensor], length: int, device: torch.device) -> UInt8[Tensor, "n 3"]:
    """The pixels of all images, row by row, one image after the other."""
    pixels, first = torch.empty(length, 3, dtype=torch.uint8, device=device), 0
    for image in images:
        last = first + image[0].numel()
        pixels[first:last] = image.flatten(1).T.contiguous().to(device)
        first = last
    return pixels


def _planes(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 3, 1, 2)
