"""What the values of a file mean: the one place that decides between all that a file says of its colours, and how the
same is said in another file. Knows no format but by name.

Source: PNG specification, third edition, 4.3 (cICP, iCCP, sRGB, gAMA and cHRM, in this order); ISO/IEC 23000-22
(MIAF), 7.3.6.4 (an ICC profile before nclx); Exif 3.0 and DCF 2.0 (ColorSpace, InteroperabilityIndex).
"""

from dataclasses import dataclass, field

import numpy as np

from nlsr.images.colour_space import (
    ADOBE_RGB,
    PRIMARIES,
    SRGB,
    TRANSFERS,
    UNSPECIFIED,
    Chromaticities,
    ColourSpace,
    space_of_codes,
    space_of_numbers,
    xyz_matrix,
)
from nlsr.images.formats import profiles

_NUMBERS_FIRST = ("PNG",)
"""Formats in which codes of H.273 go before an ICC profile."""

_SAYS_NUMBERS = ("PNG", "AVIF", "JPEG XL")
"""Formats in which a file can say its colours without an ICC profile; only these can say PQ and HLG."""

_SAYS_NOTHING = ("BMP",)

_EXPONENTS = (0.2, 10.0)
"""Exponents of the light that a picture can have."""

_ADOBE_EXPONENT = 2.19921875
"""2 51/256, as Adobe RGB (1998) has it."""


@dataclass
class Claims:
    """What the parts of a file say, unchecked.

    Args:
        profile: ICC.
        codes: ColourPrimaries and TransferCharacteristics of H.273; `codes_in` is where they stand.
        srgb: an explicit word that it is sRGB.
        exponent: exponent of the light (1 / gAMA); None where nothing is said.
        chromaticities: x and y of white, red, green and blue.
        exif_space, exif_index: ColorSpace and InteroperabilityIndex of EXIF.
    """

    profile: bytes | None = None
    codes: tuple[int, int] | None = None
    codes_in: str = "cICP"
    srgb: bool = False
    exponent: float | None = None
    chromaticities: Chromaticities | None = None
    exif_space: object = None
    exif_index: object = None
    notes: list[str] = field(default_factory=list)


def decide(claims: Claims, format: str, *, grey: bool) -> tuple[bytes | None, ColourSpace | None, list[str]]:
    """The ICC profile or else the colour space of the pixels, and notes; neither where nothing is said.

    What is damaged, reserved, unknown or for other channels is left out with a note, and what comes next decides. A
    profile for the other channels becomes its twin for these, where it has one.
    """
    notes = list(claims.notes)
    profile = _sound_profile(claims.profile, grey, notes)
    space = _of_codes(claims, notes)
    if space is not None and profile is not None:
        if profiles.disagrees(profile, space):
            first, second = ("ICC profile", claims.codes_in)[:: -1 if format in _NUMBERS_FIRST else 1]
            notes.append(f"{first} and {second} say different colours: {first} followed")
        if format in _NUMBERS_FIRST:
            profile = None
    if profile is not None:
        return profile, None, notes
    if space is None:
        space = SRGB if claims.srgb else _of_gamma(claims, notes) or _of_exif(claims)
    return None, space, notes


def said(
    format: str, profile: bytes | None, space: ColourSpace | None, *, grey: bool
) -> tuple[bytes | None, ColourSpace | None, bytes | None]:
    """How a format says the same colours: a profile, numbers (both may be given), and a profile to convert from.

    The last is given where the format says nothing, so that its values have to become sRGB. `space` is no PQ or HLG
    unless the format can say it.
    """
    if profile is not None:
        profile = profiles.for_channels(profile, grey=grey) or profile
        if format in _SAYS_NOTHING:
            return None, None, profile
        return (profile if profiles.is_for(profile, grey=grey) else None), None, None
    if space is None or (space.is_srgb and format not in _SAYS_NUMBERS):
        return None, None, None
    equivalent = None if space.is_hdr or space.is_srgb else profiles.profile_of(space, grey=grey)
    if format in _SAYS_NOTHING:
        return None, None, equivalent
    if format == "PNG":  # the profile is for readers older than cICP
        return equivalent, space, None
    if format == "JPEG XL" or (format == "AVIF" and space.codes):
        return None, space, None
    return equivalent, None, None


def can_say(format: str, space: ColourSpace | None) -> bool:
    """Whether a format can say, or have its values converted from, a colour space."""
    return space is None or not space.is_hdr or format in _SAYS_NUMBERS


def _sound_profile(profile: bytes | None, grey: bool, notes: list[str]) -> bytes | None:
    if not profile:
        return None
    problem = profiles.problem(profile)
    if problem is None:
        fitting = profiles.for_channels(profile, grey=grey)
        if fitting is not None:
            return fitting
        space = profile[16:20].decode("ascii", "replace").strip()
        problem = f"is for {space} and not for {'grey' if grey else 'RGB'}"
        problem = "".join(c for c in problem if c.isprintable())
    notes.append(f"ICC profile {problem}: dropped")
    return None


def _of_codes(claims: Claims, notes: list[str]) -> ColourSpace | None:
    if claims.codes is None:
        return None
    primaries, transfer = claims.codes
    unknown = []
    if primaries != UNSPECIFIED and primaries not in PRIMARIES:
        unknown.append(f"primaries {primaries}")
    if transfer != UNSPECIFIED and transfer not in TRANSFERS:
        unknown.append(f"transfer {transfer}")
    if unknown:
        notes.append(f"{claims.codes_in} says {' and '.join(unknown)}, reserved or unknown: not followed")
        return None
    return space_of_codes(primaries, transfer)


def _of_gamma(claims: Claims, notes: list[str]) -> ColourSpace | None:
    exponent, chromaticities = claims.exponent, claims.chromaticities
    if exponent is not None and not _EXPONENTS[0] <= exponent <= _EXPONENTS[1]:
        notes.append(f"gamma of 1/{exponent:.3g} makes no sense: not followed")
        exponent = None
    if chromaticities is not None and not _is_triangle(chromaticities):
        notes.append("primaries that make no triangle around white: not followed")
        chromaticities = None
    if exponent is None and chromaticities is None:
        return None
    return space_of_numbers(chromaticities, exponent)


def _is_triangle(chromaticities: Chromaticities) -> bool:
    if not all(np.isfinite(chromaticities)) or min(chromaticities[:2]) <= 0:
        return False
    try:
        matrix = xyz_matrix(chromaticities)
    except np.linalg.LinAlgError:
        return False
    # White is made of all three, and each turns into a number of a profile.
    return bool(matrix.sum(0).min() > 1e-3 and np.abs(matrix).max() < 10 and np.linalg.cond(matrix) < 1e4)


def _of_exif(claims: Claims) -> ColourSpace | None:
    if claims.exif_space == 1:
        return SRGB
    index = claims.exif_index
    text = index.decode("ascii", "replace") if isinstance(index, bytes) else str(index)
    # 2 is no value of the standard; cameras that write it mean Adobe RGB.
    if claims.exif_space == 2 or (claims.exif_space == 0xFFFF and text.strip("\0 ") == "R03"):
        return ColourSpace(ADOBE_RGB, _ADOBE_EXPONENT)
    return None
