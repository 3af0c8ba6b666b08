"""From high-res to a low-res image that looks photographed and posted: the order and the strength of what happens.

A run of the chain is blur, resize, noise. Some pictures go through it twice, the first time at a larger size, with a
compression between. At the end the picture comes to low-res, with or without ringing, and is compressed: in this
order, or compressed first.

Source: Wang et al., "Real-ESRGAN", 2021 (arXiv 2107.10833), section 3; Zhang et al., "Designing a Practical
Degradation Model for Deep Blind Image Super-Resolution", 2021 (arXiv 2103.14006).
"""

import math

import numpy as np
from jaxtyping import Shaped, UInt8
from torch import Tensor

from nlsr.train.data.degradation.kernels import blur_kernel, sinc_kernel
from nlsr.train.data.degradation.operations import add_noise, add_photon_noise, blur, compress, resize_with, to_8_bits
from nlsr.train.data.degradation.settings import DegradationSection


def degrade(
    high_res: UInt8[Tensor, "3 _sh _sw"], *, scale: int, settings: DegradationSection, generator: np.random.Generator
) -> UInt8[Tensor, "3 _h _w"]:
    """A low-res version of an image whose sides are multiples of the scale; `settings.clean` is the caller's.

    What is in the middle of a high-res pixel group stays in the middle of its low-res pixel. Near the borders, which
    are mirrored, the result differs from what a larger image would give.

    Args:
        generator: everything random comes from it: equal states give equal images.
    """
    return _Chain(scale, settings, generator, (high_res.shape[1] // scale, high_res.shape[2] // scale)).run(high_res)


class _Chain:
    """One draw from the chain; a *pitch* is how many pixels of the image at hand fit into a low-res pixel."""

    def __init__(
        self, scale: int, settings: DegradationSection, generator: np.random.Generator, low_size: tuple[int, int]
    ) -> None:
        self.scale, self.settings, self.generator, self.low_size = scale, settings, generator, low_size

    def run(self, image: UInt8[Tensor, "3 _sh _sw"]) -> UInt8[Tensor, "3 _h _w"]:
        if self.happens(self.settings.twice):
            image = self.compressed(self.once(image, float(self.scale)))
        image = self.once(image, 1.0)
        if self.happens(0.5):
            return self.compressed(self.finished(image))
        return self.finished(self.compressed(image))

    def once(self, image: UInt8[Tensor, "3 _h _w"], pitch: float) -> UInt8[Tensor, "3 _ _"]:
        """Blur, resize to about `pitch`, noise."""
        return to_8_bits(self.noisy(self.resized(self.blurred(image), pitch)))

    def blurred(self, image: Tensor) -> Shaped[Tensor, "3 _h _w"]:
        settings = self.settings
        if not self.happens(settings.blur):
            return image
        pitch = image.shape[1] / self.low_size[0]
        sigmas = (pitch * self.within(settings.blur_sigma), pitch * self.within(settings.blur_sigma))
        angle = self.generator.uniform(0, math.pi)
        if not self.happens(settings.anisotropic):
            sigmas = (sigmas[0], sigmas[0])
        kind = self.generator.random()
        if kind < settings.plateau:
            return blur(image, blur_kernel(sigmas, angle, "plateau", self.within(settings.plateau_power)))
        power = 1.0 if kind > settings.plateau + settings.generalised else self.within(settings.generalised_power)
        return blur(image, blur_kernel(sigmas, angle, power=power))

    def resized(self, image: Tensor, pitch: float) -> Shaped[Tensor, "3 _ _"]:
        if self.happens(self.settings.resize):
            smallest, largest = self.settings.resize_range
            pitch = math.exp(self.generator.uniform(math.log(smallest), math.log(largest * pitch)))
        height, width = (max(1, round(pitch * side)) for side in self.low_size)
        return self.to_size(image, (height, width))

    def noisy(self, image: Tensor) -> Shaped[Tensor, "3 _h _w"]:
        settings = self.settings
        if not self.happens(settings.noise):
            return image
        grey = self.happens(settings.grey)
        if self.happens(settings.poisson):
            return add_photon_noise(image, self.within(settings.poisson_level), self.generator, grey=grey)
        return add_noise(image, self.within(settings.noise_level), self.generator, grey=grey)

    def compressed(self, image: UInt8[Tensor, "3 _h _w"]) -> UInt8[Tensor, "3 _h _w"]:
        settings = self.settings
        if not self.happens(settings.jpeg):
            return image
        quality = int(self.generator.integers(*settings.jpeg_quality, endpoint=True))
        return compress(image, quality, full_colour=self.happens(settings.full_colour))

    def finished(self, image: UInt8[Tensor, "3 _h _w"]) -> UInt8[Tensor, "3 _ _"]:
        image = self.to_size(image, self.low_size)
        if self.happens(self.settings.ringing):
            image = blur(image, sinc_kernel(math.pi * self.within(self.settings.ringing_cutoff)))
        return to_8_bits(image)

    def to_size(self, image: Tensor, size: tuple[int, int]) -> Shaped[Tensor, "3 _ _"]:
        kernels = self.settings.resize_kernels
        return resize_with(kernels[int(self.generator.integers(len(kernels)))], image, size)

    def happens(self, share: float) -> bool:
        return bool(self.generator.random() < share)

    def within(self, bounds: tuple[float, float]) -> float:
        return float(self.generator.uniform(*bounds))
