"""What red, green and blue mean, in numbers instead of an ICC profile. Knows nothing of files.

Source: ITU-T H.273 (the codes and curves), ITU-R BT.2100 (PQ and HLG), IEC 61966-2-1 (sRGB).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Chromaticities = tuple[float, float, float, float, float, float, float, float]
"""x and y of white, red, green and blue."""

_C, _D65, _DCI, _E = (0.310, 0.316), (0.3127, 0.3290), (0.314, 0.351), (1 / 3, 1 / 3)

PRIMARIES: dict[int, Chromaticities] = {
    1: (*_D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060),
    4: (*_C, 0.670, 0.330, 0.210, 0.710, 0.140, 0.080),
    5: (*_D65, 0.640, 0.330, 0.290, 0.600, 0.150, 0.060),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (*_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    10: (*_E, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0),
    11: (*_DCI, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
"""By ColourPrimaries of H.273."""

ADOBE_RGB: Chromaticities = (*_D65, 0.640, 0.330, 0.210, 0.710, 0.150, 0.060)

LINEAR, SRGB_CURVE, PQ, HLG = 8, 13, 16, 18
"""TransferCharacteristics of H.273."""

UNSPECIFIED = 2

BT709_LIKE = (1, 6, 11, 12, 14, 15)
"""Codes of curves that are equal from 0 to 1."""

_EXPONENTS = {4: 2.2, 5: 2.8, LINEAR: 1.0, 17: 2.6}
TRANSFERS = {*BT709_LIKE, *_EXPONENTS, 7, SRGB_CURVE, PQ, HLG}
"""Codes of the curves that are known here."""

# BT.2100. PQ in cd/m² of 10000; HLG's constants.
_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
_A, _B, _HLG_C = 0.17883277, 0.28466892, 0.55991073


@dataclass(frozen=True)
class ColourSpace:
    """Primaries, white and curve.

    Args:
        primaries: ColourPrimaries of H.273, or x and y of white, red, green and blue.
        transfer: TransferCharacteristics of H.273 as an int, or the exponent of the light as a float (2.2).
    """

    primaries: int | Chromaticities = 1
    transfer: int | float = SRGB_CURVE

    @property
    def chromaticities(self) -> Chromaticities:
        return PRIMARIES[self.primaries] if isinstance(self.primaries, int) else self.primaries

    @property
    def codes(self) -> tuple[int, int] | None:
        """Both as codes of H.273, if there are such."""
        if isinstance(self.primaries, int) and isinstance(self.transfer, int):
            return self.primaries, self.transfer
        return None

    @property
    def exponent(self) -> float | None:
        """The exponent of the light, where the curve is a mere power."""
        return self.transfer if isinstance(self.transfer, float) else _EXPONENTS.get(self.transfer)

    @property
    def is_srgb(self) -> bool:
        return self.codes == (1, SRGB_CURVE)

    @property
    def is_linear(self) -> bool:
        return self.transfer == LINEAR

    @property
    def is_hdr(self) -> bool:
        """Whether values say more than a white of paper: PQ and HLG."""
        return self.transfer in (PQ, HLG)

    def light(self, values: np.ndarray) -> np.ndarray:
        """Light in [0, 1] from encoded values in [0, 1]; of PQ as a share of 10000 cd/m², of HLG that of the scene."""
        return _curve(self)(values)

    def to_xyz(self) -> np.ndarray:
        """The matrix (3, 3) from linear R, G, B to CIE XYZ, in which white has Y = 1."""
        return xyz_matrix(self.chromaticities)

    def __str__(self) -> str:
        primaries = _PRIMARY_NAMES.get(self.primaries, "primaries of its own")  # type: ignore[arg-type]
        if self.exponent is not None and self.transfer != LINEAR:
            return f"{primaries}, gamma {self.exponent:g}"
        if self.codes == (12, SRGB_CURVE):
            return "Display P3"
        if self.is_srgb:
            return "sRGB"
        curve = "BT.709 curve" if self.transfer in BT709_LIKE else _CURVE_NAMES[int(self.transfer)]
        return f"{primaries}, {curve}"


_PRIMARY_NAMES = {1: "BT.709", 4: "BT.470 M", 5: "BT.470 BG", 6: "BT.601", 7: "SMPTE 240M", 8: "film", 9: "BT.2020"}
_PRIMARY_NAMES |= {10: "CIE XYZ", 11: "DCI-P3", 12: "P3", 22: "EBU 3213", ADOBE_RGB: "Adobe RGB"}  # type: ignore[dict-item]
_CURVE_NAMES = {7: "SMPTE 240M curve", LINEAR: "linear", SRGB_CURVE: "sRGB curve", PQ: "PQ", HLG: "HLG"}

SRGB = ColourSpace()


def space_of_codes(primaries: int, transfer: int) -> ColourSpace | None:
    """What two codes of H.273 say; an unspecified one is taken as sRGB's. None where both are, or one is unknown."""
    if primaries == transfer == UNSPECIFIED:
        return None
    primaries = 1 if primaries == UNSPECIFIED else primaries
    transfer = SRGB_CURVE if transfer == UNSPECIFIED else transfer
    if primaries not in PRIMARIES or transfer not in TRANSFERS:
        return None
    return ColourSpace(primaries, transfer)


def space_of_numbers(chromaticities: Chromaticities | None, exponent: float | None) -> ColourSpace:
    """What chromaticities (sRGB's by default) and the exponent of the light (the sRGB curve by default) say.

    Numbers that a code of H.273 stands for become that code. Exponent 2.2 with the primaries of sRGB is sRGB: it is
    what writers are told to put beside it.
    """
    primaries: int | Chromaticities = 1 if chromaticities is None else chromaticities
    if chromaticities is not None:
        primaries = next((c for c in (1, 12, 9, *PRIMARIES) if _near(PRIMARIES[c], chromaticities)), primaries)
    if exponent is None or (primaries == 1 and abs(exponent / 2.2 - 1) < 0.01):
        return ColourSpace(primaries, SRGB_CURVE)
    transfer = next((c for c, e in _EXPONENTS.items() if abs(exponent / e - 1) < 0.001), float(exponent))
    return ColourSpace(primaries, transfer)


def _near(one: Chromaticities, other: Chromaticities) -> bool:
    return bool(np.abs(np.subtract(one, other)).max() < 0.0015)


def xyz_matrix(chromaticities: Chromaticities) -> np.ndarray:
    """Linear R, G, B to CIE XYZ; columns are the primaries, scaled so that they sum to white.

    Raises: LinAlgError if the primaries lie on a line.
    """
    white, *primaries = np.reshape(chromaticities, (4, 2))
    columns = np.array([[x, y, 1 - x - y] for x, y in primaries]).T
    return columns * np.linalg.solve(columns, xyz_of(white))


def xyz_of(white: np.ndarray) -> np.ndarray:
    """CIE XYZ of a chromaticity, with Y = 1."""
    x, y = white
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _curve(space: ColourSpace) -> Callable[[np.ndarray], np.ndarray]:
    """From encoded values to light."""
    exponent = space.exponent
    if exponent is not None:
        return lambda values: np.power(values, exponent)
    if space.transfer == SRGB_CURVE:
        return lambda v: np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    if space.transfer == 7:
        return lambda v: np.where(v < 0.0913, v / 4, ((v + 0.1115) / 1.1115) ** (1 / 0.45))
    if space.transfer == PQ:
        return pq_light
    if space.transfer == HLG:
        return lambda v: np.where(v <= 0.5, v * v / 3, (np.exp((np.maximum(v, 0.5) - _HLG_C) / _A) + _B) / 12)
    return lambda v: np.where(v < 0.0812428, v / 4.5, ((v + 0.0992968) / 1.0992968) ** (1 / 0.45))


def pq_light(values: np.ndarray) -> np.ndarray:
    """Light as a share of 10000 cd/m² from PQ values in [0, 1]."""
    powered = np.power(values, 1 / _M2)
    return np.power(np.maximum(powered - _C1, 0) / (_C2 - _C3 * powered), 1 / _M1)


def pq_values(light: np.ndarray) -> np.ndarray:
    """PQ values from light as a share of 10000 cd/m²."""
    powered = np.power(light, _M1)
    return np.power((_C1 + _C2 * powered) / (1 + _C3 * powered), _M2)


def srgb_encoded(light: np.ndarray) -> np.ndarray:
    """Values in [0, 1] proportional to light, encoded with the sRGB curve; float32."""
    light = light.astype(np.float32, copy=False)
    encoded = np.power(light, np.float32(1 / 2.4))
    np.subtract(np.multiply(encoded, np.float32(1.055), out=encoded), np.float32(0.055), out=encoded)
    return np.where(light <= np.float32(0.0031308), light * np.float32(12.92), encoded)
