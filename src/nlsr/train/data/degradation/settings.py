"""The recipe section `[data.degradation]`. Knows nothing of images.

The defaults are for ordinary photographs, which have been compressed once or twice, carry a little noise and are a
little soft. They are milder than those of Real-ESRGAN, which restores ruins: a network that is trained for PSNR
answers a ruin with a blur. Lengths are in low-res pixels, so that they mean the same at every scale.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from nlsr.train.section import Range, Section, Share


def _qualities(bounds: tuple[int, int]) -> tuple[int, int]:
    if not 1 <= bounds[0] <= bounds[1] <= 100:
        raise ValueError(f"expected two qualities from 1 to 100, the smaller first, got {list(bounds)}")
    return bounds


class DegradationSection(Section):
    clean: Share = 0.25
    """Share of the patches that are made by plain bicubic shrinking, so that clean pictures stay clean."""
    twice: Share = 0.35
    """Share of the other patches that go through the chain twice, first at a larger size, as if posted again."""

    blur: Share = 0.5
    """Probability of a blur, in each run of the chain."""
    blur_sigma: Range = (0.1, 0.5)
    """Width of the blur along each axis, in low-res pixels."""
    anisotropic: Share = 0.4
    """Share of blurs with two different widths, in a random direction."""
    generalised: Share = 0.15
    """Share of blurs that are generalised Gaussians, whose power is drawn from `generalised_power`."""
    generalised_power: Range = (0.5, 4.0)
    """Range of that power: below 1 gives a peak and long tails, 1 a Gaussian, above 1 a flat top and steep sides."""
    plateau: Share = 0.1
    """Share of blurs that are 1 / (1 + distance ** power), whose power is drawn from `plateau_power`."""
    plateau_power: Range = (1.0, 2.0)
    """Range of that power: the larger it is, the steeper the sides."""
    ringing: Share = 0.15
    """Probability of a sinc filter at the end, which rings at edges as sharpened pictures do."""
    ringing_cutoff: Range = (0.6, 1.0)
    """Cutoff of that filter, as a share of the highest frequency that the low-res image holds."""

    resize: Share = 0.5
    """Probability of a resize to a random size before the last resize; in the first of two runs, of any resize."""
    resize_range: Range = (0.8, 1.25)
    """Range of that size: the first number times low-res to the second times high-res (low-res in the last run)."""
    resize_kernels: list[Literal["area", "bilinear", "bicubic"]] = Field(["area", "bilinear", "bicubic"], min_length=1)
    """Every resize draws from these; all of them smooth before they shrink, and bicubic is MATLAB's."""

    noise: Share = 0.6
    """Probability of noise, in each run of the chain."""
    noise_level: Range = (0.5, 6.0)
    """Standard deviation of Gaussian noise, in 8-bit steps."""
    poisson: Share = 0.5
    """Share of noise that is photon noise, whose variance grows with the intensity."""
    poisson_level: Range = (0.5, 8.0)
    """Standard deviation of photon noise at white, in 8-bit steps."""
    grey: Share = 0.4
    """Share of noise that is equal in the three channels."""

    jpeg: Share = 0.85
    """Probability of JPEG compression, in each run of the chain."""
    jpeg_quality: Annotated[tuple[int, int], AfterValidator(_qualities)] = (50, 95)
    """Whole numbers from 1 to 100, as libjpeg counts."""
    full_colour: Share = 0.25
    """Share of JPEGs whose colours have the resolution of their luma (4:4:4); the others have half (4:2:0)."""

    @model_validator(mode="after")
    def _shapes_are_shares(self) -> "DegradationSection":
        if self.generalised + self.plateau > 1:
            raise ValueError(f"expected generalised + plateau of 1 or less, got {self.generalised + self.plateau:g}")
        return self
