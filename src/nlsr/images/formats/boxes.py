"""The boxes of ISO media files (AVIF, HEIC, JPEG XL, JPEG 2000): finding them, and adding metadata to an AVIF.

Source: ISO/IEC 14496-12 (boxes, items), ISO/IEC 23008-12 (properties, Exif and XMP items).
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple


class Box(NamedTuple):
    """Kind, and where its content begins and ends."""

    kind: bytes
    start: int
    end: int


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """The boxes that lie side by side in a part of a file, as far as they are whole."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        content = start + 8
        if size == 1 and start + 16 <= end:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            content += 8
        size = size or end - start
        if size < content - start or start + size > end:
            return
        yield Box(kind, content, start + size)
        start += size


def find(data: bytes, *path: bytes) -> Box | None:
    """The first box at a path of kinds from the outermost in; `meta` and its like are looked into."""
    start, end, box = 0, len(data), None
    for kind in path:
        box = next((found for found in boxes(data, start, end) if found.kind == kind), None)
        if box is None:
            return None
        start, end = box.start + (4 if kind in (b"meta", b"iinf", b"iref") else 0), box.end
    return box


def primary_colours(data: bytes) -> tuple[bytes | None, tuple[int, int] | None]:
    """ICC profile, and codes of H.273, of the primary item of an AVIF or HEIC file."""
    profile: bytes | None = None
    codes: tuple[int, int] | None = None
    for content in _primary_properties(data, b"colr"):
        if content[:4] in (b"prof", b"rICC"):
            profile = profile or content[4:]
        elif content[:4] == b"nclx" and len(content) >= 8:
            codes = codes or struct.unpack_from(">HH", content, 4)  # type: ignore[assignment]
    return profile, codes


def has_gain_map(data: bytes) -> bool:
    """Whether an AVIF or HEIC file holds a map from its picture to one of a higher range."""
    meta = find(data, b"meta")
    head = data[meta.start : meta.end] if meta else b""
    return b"tmap" in head or b":aux:hdrgainmap" in head


def _primary_properties(data: bytes, kind: bytes) -> list[bytes]:
    item, container, associations = find(data, b"meta", b"pitm"), find(data, b"meta", b"iprp", b"ipco"), None
    associations = find(data, b"meta", b"iprp", b"ipma")
    if not (item and container and associations):
        return []
    try:
        primary = struct.unpack_from(">H" if data[item.start] == 0 else ">I", data, item.start + 4)[0]
        indices = _associated(data, associations, primary)
    except struct.error:
        return []
    properties = list(boxes(data, container.start, container.end))
    chosen = [properties[i - 1] for i in indices if 0 < i <= len(properties)]
    return [data[box.start : box.end] for box in chosen if box.kind == kind]


def _associated(data: bytes, box: Box, item: int) -> list[int]:
    """Numbers, counted from one, of the properties of an item."""
    version, flags = data[box.start], data[box.start + 3]
    (count,) = struct.unpack_from(">I", data, box.start + 4)
    position = box.start + 8
    for _ in range(min(count, 10_000)):
        (number,) = struct.unpack_from(">H" if version == 0 else ">I", data, position)
        position += 2 if version == 0 else 4
        size = data[position]
        position += 1
        wide = flags & 1
        if number == item:
            if wide:
                return [value & 0x7FFF for value in struct.unpack_from(f">{size}H", data, position)]
            return [value & 0x7F for value in data[position : position + size]]
        position += size * (2 if wide else 1)
    return []


# Writing


def box(kind: bytes, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def with_items(data: bytes, *, profile: bytes | None, exif: bytes | None, xmp: bytes | None) -> bytes:
    """A small AVIF as libavif writes it, with a profile for its primary item, and with EXIF and XMP about that.

    What libavif wrote is kept, but for its table of places: the pixels move back by as much as the head grows.
    """
    meta, item = find(data, b"meta"), find(data, b"meta", b"pitm")
    if not (profile or exif or xmp):
        return data
    assert meta
    assert item
    (primary,) = struct.unpack_from(">H", data, item.start + 4)
    places = _places(data, find(data, b"meta", b"iloc"))
    number = max(places) + 1
    added: list[tuple[int, bytes, bytes]] = []
    if exif:
        added.append((number, box(b"infe", b"\2\0\0\1", struct.pack(">HH", number, 0), b"Exif\0"), bytes(4) + exif))
    if xmp:
        number += len(added)
        kind = b"mime\0application/rdf+xml\0"
        added.append((number, box(b"infe", b"\2\0\0\1", struct.pack(">HH", number, 0), kind), xmp))
    children = {child.kind: data[child.start : child.end] for child in boxes(data, meta.start + 4, meta.end)}
    for _, entry, _ in added:
        children[b"iinf"] = _with_entry(children[b"iinf"], entry)
        children.setdefault(b"iref", bytes(4))
    for number, _, _ in added:
        children[b"iref"] += box(b"cdsc", struct.pack(">HHH", number, 1, primary))
    if profile:
        children[b"iprp"] = _with_profile(children[b"iprp"], primary, profile)

    def head(moved: int, end: int) -> bytes:
        """The meta box where the old pixels moved by so many bytes and the new items begin at `end`."""
        rows = [(number, [(offset + moved, size) for offset, size in extents]) for number, extents in places.items()]
        for number, _, content in added:
            rows.append((number, [(end, len(content))]))
            end += len(content)
        children[b"iloc"] = _place_table(rows)
        return box(b"meta", bytes(4), *(box(kind, content) for kind, content in children.items()))

    moved = len(head(0, 0)) - (meta.end - meta.start + 8)
    rest = data[meta.end :]
    start = meta.start - 8
    meta_box = head(moved, meta.end + moved + len(rest) + 8)
    extra = box(b"mdat", *(content for _, _, content in added)) if added else b""
    return data[:start] + meta_box + rest + extra


def _places(data: bytes, place: Box | None) -> dict[int, list[tuple[int, int]]]:
    """Offset and size of the extents of each item, from the table that libavif writes (version 0, 4-byte numbers)."""
    assert place
    assert data[place.start : place.start + 6] == b"\0\0\0\0\x44\0"
    (count,) = struct.unpack_from(">H", data, place.start + 6)
    position, places = place.start + 8, {}
    for _ in range(count):
        number, _, extents = struct.unpack_from(">HHH", data, position)
        position += 6
        places[number] = [struct.unpack_from(">II", data, position + 8 * i) for i in range(extents)]
        position += 8 * extents
    return places


def _place_table(rows: list[tuple[int, list[tuple[int, int]]]]) -> bytes:
    table = b"\0\0\0\0\x44\0" + struct.pack(">H", len(rows))
    for number, extents in rows:
        table += struct.pack(">HHH", number, 0, len(extents)) + b"".join(struct.pack(">II", *e) for e in extents)
    return table


def _with_entry(table: bytes, entry: bytes) -> bytes:
    (count,) = struct.unpack_from(">H", table, 4)
    return table[:4] + struct.pack(">H", count + 1) + table[6:] + entry


def _with_profile(properties: bytes, item: int, profile: bytes) -> bytes:
    """The properties with a profile more; that of an item it is, and not an essential one."""
    container, associations = list(boxes(properties))
    count = len(list(boxes(properties, container.start, container.end)))
    table = bytearray(properties[associations.start : associations.end])
    assert table[:4] == b"\0\0\0\0"
    position = 8
    while struct.unpack_from(">H", table, position)[0] != item:
        position += 3 + table[position + 2]
    table[position + 2] += 1
    table[position + 2 + table[position + 2] : position + 2 + table[position + 2]] = bytes([count + 1])
    inside = properties[container.start : container.end] + box(b"colr", b"prof", profile)
    return box(b"ipco", inside) + box(b"ipma", bytes(table))
