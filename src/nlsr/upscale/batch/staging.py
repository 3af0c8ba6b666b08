"""Pictures and results at addresses of object storage, as files of this machine while they are in hand.

A picture is fetched when it is read and gone from here afterwards; a result is sent whole when it is complete. So no
more than the pictures in hand lie here, however many there are.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from nlsr import storage
from nlsr.errors import UsageError
from nlsr.images import is_picture
from nlsr.storage import Entry
from nlsr.upscale.batch.manifest import Content
from nlsr.upscale.batch.sources import Source, ending


class Staging:
    """A folder of this machine in which every address has a place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mounts: dict[str, str] = {}
        """What lies in a folder of the folder lies at an address."""
        self.entries: dict[Path, Entry] = {}
        """What is known to be there, by its place here."""

    def part(self, paths: Iterable[Path]) -> "Staging":
        """What is known of some files, for a process that handles them, on this machine or another."""
        part = Staging(self.folder)
        part.mounts = self.mounts
        part.entries = {path: self.entries[path] for path in paths if path in self.entries}
        return part

    def move(self, folder: Path) -> None:
        """From now on another folder is meant. `moved` says for it where a place lies that was known before."""
        self.entries = {self.moved(path, folder): entry for path, entry in self.entries.items()}
        self.folder = folder

    def moved(self, path: Path, folder: Path) -> Path:
        """Where a place would lie in another folder; other files of this machine stay where they are."""
        return folder / path.relative_to(self.folder) if self.folder in path.parents else path

    def place(self, address: str) -> Path:
        """Where the file or folder of an address lies here."""
        above, _, name = address.rstrip("/").rpartition("/")
        mount = next((mount for mount, known in self.mounts.items() if known == above), str(len(self.mounts)))
        self.mounts[mount] = above
        (self.folder / mount).mkdir(exist_ok=True)
        return self.folder / mount / name

    def address(self, path: Path) -> str | None:
        """The address of a place; nothing for other files of this machine."""
        if self.folder not in path.parents:
            return None
        mount, *parts = path.relative_to(self.folder).parts
        return "/".join((self.mounts[mount], *parts))

    def said(self, text: str) -> str:
        """A message in which places are called by their addresses."""
        for mount, address in self.mounts.items():
            text = text.replace(f"{self.folder / mount}{os.sep}", f"{address}/")
        return text

    def search(self, address: str, own_name: PurePath, leave_out: Path | None, others: Counter[str]) -> list[Source]:
        """The pictures of an address: of a folder those that its endings tell, or the one file.

        Raises: UsageError if nothing is there.
        """
        found, top = [], self.place(address)
        results = self.address(leave_out) if leave_out is not None else None
        for entry in storage.entries(address):
            if entry.address == address:
                self.entries[top] = entry
                return [Source(top, PurePath(top.name))]
            below = PurePath(entry.address.removeprefix(address.rstrip("/") + "/"))
            path = top / below
            hidden = any(part.startswith(".") for part in below.parts)
            if hidden or (results is not None and entry.address.startswith(f"{results}/")):
                continue
            if is_picture(path.name):
                self.entries[path] = entry
                found.append(Source(path, own_name / below))
            else:
                others[ending(path.name)] += 1
        if not found:
            raise UsageError(f"{address}: holds no picture")
        return found

    def look(self, folder: Path) -> None:
        """Learn what lies at the address of a folder, which need not exist."""
        address = self.address(folder)
        if address is not None and storage.is_folder(address):
            start = address.rstrip("/") + "/"
            for entry in storage.entries(address):
                self.entries[folder / entry.address.removeprefix(start)] = entry

    def content(self, path: Path) -> Content | None:
        """What the storage says of the content of a file; nothing where it has no name for it."""
        entry = self.entries.get(path)
        return Content(entry.size, etag=entry.etag, modified=entry.modified) if entry and entry.etag else None

    @contextlib.contextmanager
    def at_hand(self, path: Path) -> Iterator[None]:
        """A context in which a picture lies here. Raises: ImageError."""
        address = self.address(path)
        if address is None:
            yield
            return
        try:
            storage.fetch(address, path)
            yield
        finally:
            path.unlink(missing_ok=True)

    def send(self, path: Path) -> Content | None:
        """Put a result where it belongs, whole; what the storage says of it. Raises: TargetError."""
        address = self.address(path)
        if address is None:
            return None
        try:
            storage.send(path, address)
            entry = storage.entry(address)
        finally:
            path.unlink(missing_ok=True)
        assert entry is not None
        self.entries[path] = entry
        return Content(entry.size, etag=entry.etag)
