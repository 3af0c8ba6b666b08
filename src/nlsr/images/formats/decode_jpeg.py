"""JPEG: its segments are read here, its pixels by Pillow, or by imagecodecs where they have 12 bits.

libjpeg fills damaged scans with something, and neither Pillow nor imagecodecs passes on that it warns. simplejpeg does:
what it hears of damage becomes a note.

Source: ITU-T T.81 and T.871 (JFIF), Exif 3.0, ICC.1 annex B, Adobe's XMP specification part 3, CIPA DC-007 (MPF).
"""

import re
import struct
from typing import BinaryIO

import numpy as np
from PIL import JpegImagePlugin

from nlsr.images.formats import metadata
from nlsr.images.formats.decoded import (
    READING,
    Beside,
    CheckSize,
    Decoded,
    Refusal,
    described,
    lies_on_its_side,
    without_inks,
)
from nlsr.images.formats.pillow_pixels import samples_of

_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
# A zero behind 0xff belongs to it.
_ZEROS_AT_THE_END = re.compile(rb"(?<!\xff)\0+(?=\xff\xd9)")
_SCAN, _END, _COMMENT = 0xDA, 0xD9, 0xFE
_EXIF, _XMP, _LONG_XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
_PROFILE, _PHOTOSHOP, _GAIN_MAP = b"ICC_PROFILE\0", b"Photoshop 3.0\0", b"urn:iso:std:iso:ts:21496:-1\0"
# Bytes per pixel that are taken until a picture is read: inks become light in floating point.
_CMYK_READING, _DEEP_READING = 50, 28

Segment = tuple[int, bytes]
"""Marker and content."""


def decode_jpeg(file: BinaryIO, check_size: CheckSize) -> Decoded:
    """The picture of a JPEG; of several in one file, the first."""
    data = file.read()
    file.seek(0)
    segments = _segments(data)
    beside = _beside(segments)
    frame = next((content for marker, content in segments if marker in _FRAMES), b"")
    if frame[:1] == b"\x0c":
        height, width = struct.unpack_from(">HH", frame, 1)
        check_size(width, height, depth=16, turned=lies_on_its_side(beside.exif), reading=_DEEP_READING)
        return described(Decoded(_deep_samples(data, height, width), 4095.0, 16), beside, "JPEG")
    image = JpegImagePlugin.JpegImageFile(file)
    reading = _CMYK_READING if image.mode == "CMYK" else READING
    check_size(*image.size, turned=lies_on_its_side(beside.exif), reading=reading)
    damage = _damage(data, image.mode)
    image.load()
    decoded = Decoded(np.empty(0), 255.0, 8)
    if image.mode == "CMYK":
        decoded.samples = np.asarray(image)
        profile, beside.claims.profile = beside.claims.profile, None
        without_inks(decoded, profile)
    else:
        decoded.samples = samples_of(image, "JPEG")
    decoded.notes += damage
    return described(decoded, beside, "JPEG")


def _deep_samples(data: bytes, height: int, width: int) -> np.ndarray:
    import imagecodecs

    samples = imagecodecs.jpeg8_decode(data)
    samples = samples.reshape(*samples.shape[:2], -1)
    if samples.shape[:2] != (height, width) or samples.dtype != np.uint16:
        raise ValueError(f"{width}×{height} samples of 12 bits expected, got {samples.shape} of {samples.dtype}")
    if samples.shape[2] not in (1, 3):
        raise Refusal(f"expected grey or RGB pixels in a 12-bit JPEG, got {samples.shape[2]} channels; convert it")
    return samples


def _damage(data: bytes, mode: str) -> list[str]:
    """What libjpeg-turbo says of the scans, as a note; what it cannot decode at all is left to who needs the pixels.

    Zeros before the end marker, with which some cameras fill up their files, are no damage.
    """
    heard = _heard(data, mode)
    if "extraneous bytes" in heard:
        heard = _heard(_ZEROS_AT_THE_END.sub(b"", data), mode)
    return [f"scan data are damaged, parts of the picture may be wrong ({heard})"] if heard else []


def _heard(data: bytes, mode: str) -> str:
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(data, colorspace="CMYK" if mode == "CMYK" else "GRAY")
    except ValueError as error:
        return "".join(c for c in str(error) if c.isprintable())[:100]
    return ""


# Segments


def _segments(data: bytes) -> list[Segment]:
    """What stands before the first scan; the frame's header among it.

    Refuses a file whose scans do not run to an end marker: decoders fill what is missing with grey.
    """
    segments: list[Segment] = []
    position, scanned = 2, False
    while True:
        found = _MARKER.search(data, position)
        if found is None:
            raise ValueError("no end marker")
        marker, position = found[1][0], found.end()
        if marker == _END:
            return segments
        if marker in (0x01, 0xD8):
            continue
        size = int.from_bytes(data[position : position + 2], "big")
        scanned |= marker == _SCAN
        if not scanned:
            segments.append((marker, data[position + 2 : position + size]))
        position += size


def _beside(segments: list[Segment]) -> Beside:
    beside = Beside()
    profile: dict[int, bytes] = {}
    pieces = 0
    photoshop = b""
    long_xmp = gain_map = False
    for marker, content in segments:
        if marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 12:
            unit, across, down = struct.unpack_from(">BHH", content, 7)
            if unit in (1, 2):
                scale = 1.0 if unit == 1 else 2.54
                beside.resolution = beside.resolution or (across * scale, down * scale)
        elif marker == 0xE1 and content.startswith(_EXIF):
            beside.exif = beside.exif or content
        elif marker == 0xE1 and content.startswith(_XMP):
            beside.xmp = beside.xmp or content[len(_XMP) :]
        elif marker == 0xE1 and content.startswith(_LONG_XMP):
            long_xmp = True
        elif marker == 0xE2 and content.startswith(_PROFILE) and len(content) > 14:
            profile.setdefault(content[12], content[14:])
            pieces = max(pieces, content[13])
        elif marker == 0xE2 and content.startswith(_GAIN_MAP):
            gain_map = True
        elif marker == 0xED and content.startswith(_PHOTOSHOP):
            photoshop += content[len(_PHOTOSHOP) :]
        elif marker == _COMMENT and content.strip(b"\0 "):
            beside.text.append((metadata.COMMENT, _comment(content)))
    beside.iptc = metadata.iptc_of_resources(photoshop)
    if profile and sorted(profile) == list(range(1, pieces + 1)):
        beside.claims.profile = b"".join(profile[number] for number in sorted(profile))
    elif profile:
        beside.claims.notes.append("ICC profile is cut short: dropped")
    if gain_map or (isinstance(beside.xmp, bytes) and metadata.says_gain_map(beside.xmp)):
        beside.notes.append("Ultra HDR: the gain map is dropped, the picture of standard range kept")
    if long_xmp:
        beside.notes.append("XMP beyond its first 64 kilobytes: dropped")
    return beside


def _comment(content: bytes) -> str:
    content = content.rstrip(b"\0")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")
