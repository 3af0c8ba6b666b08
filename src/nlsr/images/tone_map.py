"""Pictures of high dynamic range (PQ, HLG) brought to the range of paper, for formats that can say no more.

Source: ITU-R BT.2390, 5.4.1 (the curve), BT.2100 (PQ, HLG and its display of 1000 cd/m²), BT.2408 (white of paper).
"""

from dataclasses import replace

import numpy as np
import torch

from nlsr.images.colour_space import HLG, SRGB_CURVE, ColourSpace, pq_light, pq_values, srgb_encoded
from nlsr.images.picture import Picture

PAPER = 203 / 10000
"""Light of white paper as a share of 10000 cd/m²; it becomes the brightest value."""

_HLG_PEAK, _HLG_GAMMA = 1000 / 10000, 1.2
_ROWS = 64


def tone_mapped(picture: Picture) -> Picture:
    """The picture in standard range, if it is one of PQ or HLG; any other as it is.

    Light up to about half of what paper reflects stays; brighter light is pressed together so that the brightest of
    the picture becomes 1, alike in R, G and B. Primaries stay, with the sRGB curve.

    Args:
        picture: floating-point pixels.
    """
    space = picture.space
    if space is None or not space.is_hdr:
        return picture
    pixels = picture.pixels[0].permute(1, 2, 0).contiguous().numpy()
    pieces = range(0, len(pixels), _ROWS)
    peak = max(float(_displayed(pixels[top : top + _ROWS], space).max()) for top in pieces)
    mapped = np.empty(pixels.shape, np.float32)
    for top in pieces:
        light = _displayed(pixels[top : top + _ROWS], space)
        brightest = light.max(2, keepdims=True)
        smaller = _pressed(brightest, peak) / np.maximum(brightest, 1e-9)
        mapped[top : top + _ROWS] = srgb_encoded((light * smaller / PAPER).clip(0, 1))
    note = f"{space} brought to standard range: {peak * 10000:.0f} cd/m² and {PAPER * 10000:.0f} are its white now"
    return replace(
        picture,
        pixels=torch.from_numpy(mapped).permute(2, 0, 1)[None],
        space=ColourSpace(space.primaries, SRGB_CURVE),
        notes=(*picture.notes, note if peak > PAPER else f"{space} brought to standard range"),
    )


def _displayed(values: np.ndarray, space: ColourSpace) -> np.ndarray:
    """Light of the display, as a share of 10000 cd/m²."""
    light = space.light(values.astype(np.float64))
    if space.transfer != HLG:
        return light
    luminance = light @ space.to_xyz()[1]
    return _HLG_PEAK * light * np.power(luminance, _HLG_GAMMA - 1, where=luminance > 0, out=luminance)[:, :, None]


def _pressed(light: np.ndarray, peak: float) -> np.ndarray:
    """Light with the range above a knee pressed into that below paper, by a Hermite spline of PQ values."""
    if peak <= PAPER:
        return light
    scale = float(pq_values(np.array(peak)))
    most = float(pq_values(np.array(PAPER))) / scale
    values = pq_values(light) / scale
    knee = 1.5 * most - 0.5
    t = ((values - knee) / (1 - knee)).clip(0, 1)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    return pq_light(np.where(values < knee, values, spline) * scale)
