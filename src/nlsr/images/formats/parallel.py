"""Packing strips on several cores while the next ones are computed. Knows nothing of images."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

# Enough to pack faster than any network computes; each one holds a strip in several copies.
_MOST_WORKERS = 4

_Item = TypeVar("_Item")
_Packed = TypeVar("_Packed")


def in_parallel(pack: Callable[[_Item], _Packed], items: Iterable[_Item]) -> Iterator[_Packed]:
    """Results of `pack` in order; a few items ahead and no more, so that memory stays small on a slow disk."""
    workers = min(_MOST_WORKERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[_Packed]] = deque()
        for item in items:
            ahead.append(pool.submit(pack, item))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
