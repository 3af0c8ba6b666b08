"""Silence for the libraries that read and write files: what matters in their warnings becomes an error or a note."""

import logging
import threading
import warnings

_LOGGERS = ("tifffile", "PIL.TiffImagePlugin", "PIL.PngImagePlugin")


class _Quiet:
    """A context in which the decoders' warnings and logs are not shown.

    `warnings.catch_warnings` alone would leave everything silenced for good when two threads leave it in the
    wrong order; here the first one in saves the filters and the last one out restores them.
    """

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.saved = warnings.catch_warnings()
                self.saved.__enter__()
                warnings.simplefilter("ignore")
                self.loggers = [logger for logger in map(logging.getLogger, _LOGGERS) if not logger.disabled]
                for logger in self.loggers:
                    logger.disabled = True
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.saved.__exit__(None, None, None)
                for logger in self.loggers:
                    logger.disabled = False


quiet = _Quiet()
