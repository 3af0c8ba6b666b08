"""Does any damaged file crash, hang or bloat the reader? Thousands of mutated files, read in a child process.

Every outcome must be a picture or an ImageError in one line; nothing may be printed. Prints one line of JSON and exits
with 1 if anything else happened. Equal seeds give equal files: `--only N` repeats a single one in this process.

    python benchmarks/fuzz_images.py --count 10000
"""

import argparse
import ctypes
import gc
import io
import json
import os
import random
import resource
import selectors
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

from nlsr.errors import ImageError
from nlsr.images import read
from nlsr.images.formats.jpeg_xl import with_colours

TIME_LIMIT = 60.0  # wall clock, on a machine that may be busy
MEMORY_LIMIT = 4 * 2**30
"""Address space of the child beside what it starts with: who asks for more gets an error, not all of the machine."""

LOOKS = 50
"""Cases from one look at the memory to the next."""
GROWTH = 16
"""MiB that may be held more at the end than after a tenth of the cases."""

MAX_PIXELS = 20_000_000
"""Less than the default, so that a mutated size costs no minutes: what is above is refused by the same line of code."""


# Whole files


def whole_files() -> list[bytes]:
    """Small files of every format, with all that can stand in them."""
    y, x = np.mgrid[:37, :53]
    rgba = np.stack([4 * x, 6 * y, 255 - 2 * x - 2 * y, 128 + x], 2).clip(0, 255).astype(np.uint8)
    rgb, deep = np.ascontiguousarray(rgba[:, :, :3]), rgba.astype(np.uint16) * 257
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif.get_ifd(0x8769).update({0x9003: "2020:01:02 03:04:05", 0xA002: 53})
    profile = imagecodecs.cms_profile("srgb")
    beside = {"exif": exif.tobytes(), "icc_profile": profile}
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode())

    def pillow(image: Image.Image, format: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        return buffer.getvalue()

    def tiff(samples: np.ndarray, **options: object) -> bytes:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, samples, **options)
        return buffer.getvalue()

    colour, transparent = Image.fromarray(rgb), Image.fromarray(rgba)
    grey, palette, ink = colour.convert("L"), colour.quantize(30), colour.convert("CMYK")
    frames = {"save_all": True, "append_images": [colour.rotate(90), colour.rotate(180)]}
    files = [
        pillow(transparent, "PNG", pnginfo=text, **beside),
        pillow(palette, "PNG", transparency=3),
        pillow(grey.convert("1"), "PNG"),
        pillow(colour, "PNG", **frames),
        imagecodecs.png_encode(deep),
        imagecodecs.png_encode(deep[:, :, 0].copy()),
        pillow(colour, "JPEG", xmp=xmp, **beside),
        pillow(colour, "JPEG", progressive=True),
        pillow(grey, "JPEG", restart_marker_rows=1),
        pillow(ink, "JPEG"),
        pillow(transparent, "WebP", xmp=xmp, **beside),
        pillow(transparent, "WebP", lossless=True),
        pillow(colour, "WebP", **frames),
        pillow(colour, "TIFF", tiffinfo={700: xmp}, **beside),
        pillow(palette, "TIFF"),
        pillow(ink, "TIFF"),
        tiff(deep, photometric="rgb", extrasamples=["unassalpha"], compression="zlib", predictor=True),
        tiff(deep, photometric="rgb", extrasamples=["assocalpha"], compression="lzw", bigtiff=True),
        tiff(deep[:, :, 0], tile=(16, 16), byteorder=">"),
        tiff(rgb, photometric="rgb", compression="jpeg"),
        tiff(np.moveaxis(rgb, 2, 0), photometric="rgb", planarconfig="separate", compression="packbits"),
        tiff(rgb / np.float32(255), photometric="rgb", compression="zstd"),
        tiff(np.stack([rgb, rgb]), photometric="rgb"),
        pillow(colour, "BMP"),
        pillow(palette, "BMP"),
        pillow(grey.convert("1"), "BMP"),
        pillow(transparent, "AVIF", xmp=xmp, **beside),
        imagecodecs.avif_encode(deep >> 6, level=90, bitspersample=10),
        pillow(colour, "AVIF", **frames),
        pillow(palette, "GIF", transparency=3),
        pillow(palette, "GIF", interlace=1, **frames),
    ]
    files += described_files(rgb, deep, colour)
    if find_spec("pillow_heif"):
        import pillow_heif

        for options in ({"tile_size": 512}, {"color_primaries": 9, "transfer_characteristics": 16}):
            buffer = io.BytesIO()
            pillow_heif.from_pillow(colour.resize((600, 530))).save(buffer, **options)
            files.append(buffer.getvalue())
        buffer = io.BytesIO()
        pillow_heif.from_pillow(transparent).save(buffer, xmp=xmp, exif=exif.tobytes())
        files.append(buffer.getvalue())
        buffer = io.BytesIO()
        pillow_heif.encode("RGB;16", (53, 37), deep[:, :, :3].tobytes(), buffer)
        files.append(buffer.getvalue())
    return files


def described_files(rgb: np.ndarray, deep: np.ndarray, colour: Image.Image) -> list[bytes]:
    """What says its colours in numbers, and metadata of the rarer kinds."""
    iptc = b"\x1c\x02\x19\x00\x03cat\x1c\x02P\x00\x02me"
    resources = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc
    chunks = [
        (b"cICP", b"\x09\x10\0\1"),
        (b"gAMA", struct.pack(">I", 55556)),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)),
        (b"iCCP", b"x\0\0" + zlib.compress(imagecodecs.cms_profile("srgb"))),
        (b"pHYs", struct.pack(">IIB", 11811, 11811, 1)),
        (b"tEXt", b"Comment\0by me"),
        (b"zTXt", b"parameters\0\0" + zlib.compress(b"steps " * 50)),
        (b"iTXt", b"Title\0\1\0de\0Titel\0" + zlib.compress(b"Katze")),
        (
            b"zTXt",
            b"Raw profile type iptc\0\0" + zlib.compress(f"\niptc\n{len(resources)}\n{resources.hex()}\n".encode()),
        ),
    ]

    def png(samples: np.ndarray, number: int) -> bytes:
        data = imagecodecs.png_encode(samples)
        packed = b"".join(
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
            for kind, content in chunks[number:]
        )
        return data[:33] + packed + data[33:]

    def jpeg(marker: int, content: bytes) -> bytes:
        buffer = io.BytesIO()
        colour.save(buffer, "JPEG", comment="by me", dpi=(300, 300))
        segment = bytes([255, marker]) + struct.pack(">H", 2 + len(content)) + content
        return buffer.getvalue()[:20] + segment + buffer.getvalue()[20:]

    def tiff(samples: np.ndarray, **options: object) -> bytes:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, samples, **options)
        return buffer.getvalue()

    light = np.concatenate([rgb / 64, np.ones_like(rgb[:, :, :1])], 2).astype(np.float16)
    unknown = np.where(rgb > 250, np.nan, rgb / np.float32(255)).astype(np.float32)
    whole = dict(lossless=True, usecontainer=False)
    codestream = imagecodecs.jpegxl_encode(rgb, **whole)
    metadata = struct.pack(">I4sI", 20, b"Exif", 0) + b"II*\0\x08\0\0\0" + struct.pack(">I4s", 12, b"xml ") + b"<a/>"
    container = b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl " + metadata
    profiled = with_colours(bytes(codestream), None, imagecodecs.cms_profile("srgb"), grey=False)
    files = [
        *(bytes(data) for data in (codestream, imagecodecs.jpegxl_encode(deep, **whole), profiled)),
        container + struct.pack(">I4s", 8 + len(codestream), b"jxlc") + codestream,
        bytes(imagecodecs.jpegxl_encode(rgb, distance=1.0)),
        *(bytes(imagecodecs.jpeg2k_encode(x, codecformat=c)) for x, c in ((rgb, "jp2"), (deep, "jp2"), (rgb, "j2k"))),
        b"P6\n53 37\n65535\n" + deep[:, :, :3].astype(">u2").tobytes(),
        b"P2 5 2 9\n1 2 3 4 5 # five\n6 7 8 9 0\n",
        b"P4 53 37\n" + bytes(7 * 37),
    ]
    for format, options in (("ICO", {"sizes": [(16, 16), (32, 32)]}), ("TGA", {}), ("TGA", {"compression": "tga_rle"})):
        buffer = io.BytesIO()
        colour.resize((32, 32)).save(buffer, format, **options)
        files.append(buffer.getvalue())
    return [
        *files,
        *(png(rgb, number) for number in range(4)),
        png(deep, 0),
        imagecodecs.avif_encode(deep[:, :, :3] >> 6, level=90, bitspersample=10, primaries=9, transfer=16),
        imagecodecs.avif_encode(rgb, level=90, primaries=12, transfer=8),
        jpeg(0xED, b"Photoshop 3.0\0" + resources),
        jpeg(0xE1, b'http://ns.adobe.com/xap/1.0/\0<a hdrgm:Version="1.0"/>'),
        imagecodecs.jpeg8_encode(deep[:, :, :3] >> 4, bitspersample=12),
        imagecodecs.ultrahdr_encode(np.ascontiguousarray(light[:36, :52])),
        tiff(rgb.astype(np.int16) * 128, photometric="rgb", extratags=[(33723, 7, len(iptc), iptc, True)]),
        tiff(rgb.astype(np.uint32) << 24, photometric="rgb", resolution=(300, 300)),
        tiff(unknown, photometric="rgb", extratags=[(34377, 7, len(resources), resources, True)]),
    ]


# Mutations


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One to three kinds of damage, one after the other; checksums of PNG are made right again now and then."""
    content = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        chance.choice(MUTATIONS)(content, chance)
    if content[:4] == b"\x89PNG" and chance.random() < 0.7:
        content = with_right_checksums(bytes(content))
    return bytes(content)


def flip_bits(content: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 3, 20, 100])):
        if content:
            content[place(content, chance)] ^= 1 << chance.randrange(8)


def change_bytes(content: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 3, 20])):
        if content:
            content[place(content, chance)] = chance.choice([0, 1, 127, 128, 254, 255, chance.randrange(256)])


def edit_number(content: bytearray, chance: random.Random) -> None:
    """A 16- or 32-bit number, mostly of the header, becomes an awkward one."""
    size = chance.choice([2, 4])
    if len(content) > size:
        start = min(place(content, chance), len(content) - size)
        limit = 2 ** (8 * size)
        value = chance.choice(
            [0, 1, 2, 7, 255, 4096, 65535, limit // 2 - 1, limit // 2, limit - 1, chance.randrange(limit)]
        )
        content[start : start + size] = (value % limit).to_bytes(size, chance.choice(["little", "big"]))


def cut(content: bytearray, chance: random.Random) -> None:
    del content[chance.randrange(len(content) + 1) :]


def remove_inside(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content) + 1)
    del content[start : start + chance.choice([1, 4, 50, 500])]


def repeat_inside(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content) + 1)
    content[start:start] = content[start : start + chance.choice([1, 4, 50, 500])] * chance.choice([1, 2, 100])


def swap_pieces(content: bytearray, chance: random.Random) -> None:
    """Two neighbouring pieces change places: chunks, where both ends are known, else any."""
    ends = sorted(set(chunk_ends(bytes(content)))) if chance.random() < 0.7 else []
    if len(ends) < 3:
        ends = [chance.randrange(len(content) + 1) for _ in range(3)]
    first, second, third = sorted(chance.sample(ends, 3))
    content[first:third] = content[second:third] + content[first:second]


def fill(content: bytearray, chance: random.Random) -> None:
    start, size = chance.randrange(len(content) + 1), chance.choice([8, 100, 10_000])
    content[start : start + size] = bytes([chance.choice([0, 255])]) * len(content[start : start + size])


MUTATIONS: list[Callable[[bytearray, random.Random], None]] = [
    flip_bits,
    flip_bits,
    change_bytes,
    edit_number,
    edit_number,
    cut,
    remove_inside,
    repeat_inside,
    swap_pieces,
    fill,
]


def place(content: bytearray, chance: random.Random) -> int:
    return chance.randrange(min(len(content), chance.choice([64, 300, len(content)])))


def chunk_ends(data: bytes) -> list[int]:
    """Where the chunks of PNG, RIFF, JPEG and ISO media files end, as far as they can be followed."""
    ends: list[int] = []
    position = {b"\x89PNG": 8, b"RIFF": 12, b"\xff\xd8\xff": 2}.get(data[:4], 2 if data[:2] == b"\xff\xd8" else 0)
    while position + 8 <= len(data) and len(ends) < 1000:
        ends.append(position)
        if data[:4] == b"\x89PNG":
            position += 12 + struct.unpack_from(">I", data, position)[0]
        elif data[:4] == b"RIFF":
            position += 8 + struct.unpack_from("<I", data, position + 4)[0]
        elif data[:2] == b"\xff\xd8":
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]
        else:
            position += max(8, struct.unpack_from(">I", data, position)[0])
    return [end for end in ends if end <= len(data)]


def with_right_checksums(data: bytes) -> bytearray:
    content = bytearray(data)
    for end in chunk_ends(data):
        size = struct.unpack_from(">I", data, end)[0]
        if end + 12 + size <= len(data):
            content[end + 8 + size : end + 12 + size] = struct.pack(">I", zlib.crc32(content[end + 4 : end + 8 + size]))
    return content


# Reading, in the child


def case(number: int, seed: int, files: list[bytes]) -> bytes:
    chance = random.Random(f"{seed}-{number}")
    return mutated(chance.choice(files), chance)


def outcome(path: Path) -> str:
    """'picture' or 'refused', or what is wrong."""
    try:
        picture = read(path, max_pixels=MAX_PIXELS)
    except ImageError as error:
        return "refused" if len(str(error).splitlines()) == 1 else f"error of several lines: {error!r}"
    except BaseException as error:  # whatever it is must be reported
        return f"escaped: {type(error).__name__}: {error}"
    for part in (picture.pixels, picture.alpha):
        if part is not None and not (part.isfinite().all() and part.min() >= 0 and part.max() <= 1):
            return "values out of range"
    return "picture"


def read_cases(first: int, count: int, seed: int, folder: Path) -> None:
    """Announces each case before it is read and tells its outcome, and now and then the memory that is held."""
    files, path = whole_files(), folder / "case.tga"  # the ending is asked only where nothing else is recognised
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_LIMIT, held + MEMORY_LIMIT))
    for number in range(first, count):
        path.write_bytes(case(number, seed, files))
        print(json.dumps({"started": number}), flush=True)
        started = time.perf_counter()
        what = outcome(path)
        row = {"ended": number, "what": what, "seconds": time.perf_counter() - started}
        row["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if number % LOOKS == 0 or number == count - 1:
            row["rss"] = held_memory()
        print(json.dumps(row), flush=True)


def held_memory() -> int:
    """Bytes that the process has and cannot give back.

    What only waits to be collected by Python, or was freed and is kept by the C library for later, would look like
    growth: together that is some tens of megabytes.
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# Watching, in the parent


def fuzz(count: int, seed: int) -> dict[str, object]:
    """Counts of outcomes, the slowest case, and memory: after a tenth of the cases, at the end, and the peak."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    slowest, memory, peak, number = (0.0, -1), [], 0, 0
    with tempfile.TemporaryDirectory() as folder, open(Path(folder, "errors"), "w+b") as errors:
        while number < count:
            started = number
            arguments = ["--child", folder, "--first", str(started), "--count", str(count), "--seed", str(seed)]
            command = [sys.executable, __file__, *arguments]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, bufsize=0) as child:
                last = "nothing"
                for row in rows(child):
                    if "ended" in row:
                        what, number = str(row["what"]), int(row["ended"]) + 1
                        counts[what if what in ("picture", "refused") else "wrong"] += 1
                        if what not in ("picture", "refused"):
                            wrong.append(f"case {row['ended']}: {what}")
                        slowest = max(slowest, (float(row["seconds"]), int(row["ended"])))
                        memory += [int(row["rss"])] if "rss" in row else []
                        peak = max(peak, int(row["peak"]))
                    last = "ended" if "ended" in row else "started"
                child.kill()
            if number < count:
                counts["wrong"] += 1
                wrong.append(f"case {number}: {'crash or hang' if last == 'started' else 'the child did not start'}")
                number += 1
        errors.seek(0)
        printed = errors.read()
    if printed:
        wrong.append(f"printed: {printed[:300]!r}")
    megabytes = [round(value / 2**20) for value in (memory[len(memory) // 10], memory[-1], peak)]
    if len(memory) >= 100 and megabytes[1] > megabytes[0] + GROWTH:  # fewer hold the first use of every decoder
        wrong.append(f"memory grows from {megabytes[0]} to {megabytes[1]} MiB")
    return {
        "cases": count,
        "seed": seed,
        **counts,
        "slowest_seconds": round(slowest[0], 2),
        "slowest_case": slowest[1],
        "mib_after_a_tenth": megabytes[0],
        "mib_at_the_end": megabytes[1],
        "mib_peak": megabytes[2],
        "problems": wrong,
    }


def rows(child: "subprocess.Popen[bytes]"):
    """What the child says, until it ends or is silent for too long."""
    assert child.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        waiting = b""
        patience = 600.0  # for the imports; afterwards every line comes soon
        while selector.select(patience):
            data = os.read(child.stdout.fileno(), 65536)
            if not data:
                return
            *lines, waiting = (waiting + data).split(b"\n")
            for line in lines:
                yield json.loads(line)
            patience = TIME_LIMIT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of a case to be repeated")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        read_cases(options.first, options.count, options.seed, options.child)
    elif options.only is not None:
        path = Path(tempfile.gettempdir(), f"fuzz-{options.seed}-{options.only}.tga")
        path.write_bytes(case(options.only, options.seed, whole_files()))
        print(path, outcome(path))
    else:
        report = fuzz(options.count, options.seed)
        print(json.dumps(report))
        sys.exit(1 if report["problems"] else 0)


if __name__ == "__main__":
    main()
