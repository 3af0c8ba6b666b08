"""What the tests of files are made of: samples, pictures, metadata and profiles."""

import itertools
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from nlsr.errors import ImageError
from nlsr.images import Picture

LAYOUTS = {"grey": 1, "grey-alpha": 2, "rgb": 3, "rgb-alpha": 4}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><tiff:Orientation>1</tiff:Orientation>caf\xc3\xa9</x:xmpmeta>'


def stored(size, channels, dtype=np.uint8):
    """Random samples (height, width, channels) as files hold them."""
    return np.random.default_rng(7).integers(0, np.iinfo(dtype).max, (*size, channels), dtype, endpoint=True)


def smooth(size=(40, 56)):
    """Colours that a lossy format keeps to a few steps."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([4 * x, 5 * y, 255 - 2 * x - 2 * y], 2).clip(0, 255).astype(np.uint8)


def as_picture(samples, **options):
    """An integer Picture of stored samples."""
    channels = samples.shape[2]
    tensor = torch.from_numpy(samples).permute(2, 0, 1)[None]
    colours = tensor[:, :1].expand(-1, 3, -1, -1) if channels < 3 else tensor[:, :3]
    return Picture(colours, alpha=tensor[:, -1:] if channels in (2, 4) else None, grey=channels < 3, **options)


def as_samples(picture, white=255):
    """The integers that a read Picture was made of."""
    parts = [picture.pixels[:, :1] if picture.grey else picture.pixels]
    parts += [] if picture.alpha is None else [picture.alpha]
    return torch.cat(parts, 1)[0].permute(1, 2, 0).mul(white).round().to(torch.int32).numpy()


def exif_bytes(orientation=1):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", orientation
    exif.get_ifd(0x8769).update({0x9003: "2020:01:02 03:04:05", 0xA002: 4000, 0x829A: 0.5})
    exif.get_ifd(0x8825)[1] = "N"
    return exif.tobytes()


def loaded_exif(data):
    exif = Image.Exif()
    exif.load(data)
    return exif


def cmyk_profile(black=0, kind=b"prtr"):
    """The smallest ICC profile for inks: a table of 2x2x2x2 colours, unlike the plain arithmetic.

    `black` is the lightness of black ink, of 255; `kind` the class of the device.
    """
    ramp = bytes(range(256))
    colours = [
        (black if k else 255 - 60 * (c + m + y), 128 + 60 * (m - c), 128)
        for c, m, y, k in itertools.product((0, 1), repeat=4)
    ]
    matrix = struct.pack(">9i", *np.eye(3, dtype=int).ravel() * 65536)
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + bytes(np.ravel(colours).tolist()) + ramp * 3
    header = struct.pack(">I4xI", 156 + len(table), 0x02400000) + kind + b"CMYKLab " + bytes(12) + b"acsp"
    header = header.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    tags = struct.pack(">I4sII4sII", 2, b"A2B0", 156, len(table), b"A2B1", 156, len(table))  # one for all intents
    return header.ljust(128, b"\0") + tags + table


def message_of(action, *arguments, **options):
    with pytest.raises(ImageError) as caught:
        action(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
