"""Many pictures, on a disk and on object storage, and what became of them."""

import fsspec
import numpy as np
from PIL import Image

RECORDS = (".nlsr-batch.jsonl", ".nlsr-batch/")


def pictures(folder, count):
    """Of three formats, grey, with colours and with alpha, in two folders; every tenth is cut short or empty."""
    random = np.random.default_rng(0)
    for i in range(count):
        path = folder / ("above", "above/below")[i % 2] / f"{i:03}.{('png', 'jpg', 'webp')[i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        channels = ((), (3,), (4,))[0 if i % 5 == 0 else 2 if i % 3 == 2 else 1]
        Image.fromarray(random.integers(0, 256, (20 + i % 7, 24 + i % 5, *channels), dtype=np.uint8)).save(path)
        if i % 10 == 9:
            path.write_bytes(path.read_bytes()[: 40 * (i % 4)])
    return folder


def copied(folder, address):
    """The address, where everything of the folder lies now."""
    fsspec.filesystem("s3").put(f"{folder}/", f"{address}/", recursive=True)
    return address


def tree(place):
    """Names and contents of the files of a folder or address, without the record, which tells times."""
    storage, top = fsspec.url_to_fs(str(place))
    return {name: storage.cat_file(f"{top}/{name}") for name in names(place)}


def names(place):
    storage, top = fsspec.url_to_fs(str(place))
    storage.invalidate_cache()
    found = [name.removeprefix(f"{top}/") for name in storage.find(top)]
    return [name for name in found if not name.startswith(RECORDS)]
