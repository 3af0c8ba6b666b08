"""Pictures as networks see them: reading and writing files, luma, and MATLAB's resize."""

from nlsr.images.alpha import bleed
from nlsr.images.colour import luma
from nlsr.images.files import (
    ENDINGS,
    MAX_PIXELS,
    READ_ENDINGS,
    check_target,
    format_named,
    one_line,
    read,
    write,
    write_bands,
)
from nlsr.images.formats.encode import encoder_bytes, streams
from nlsr.images.picture import Picture, without_metadata
from nlsr.images.resize import resize

__all__ = [
    "ENDINGS",
    "MAX_PIXELS",
    "READ_ENDINGS",
    "Picture",
    "bleed",
    "check_target",
    "encoder_bytes",
    "format_named",
    "luma",
    "one_line",
    "read",
    "resize",
    "streams",
    "without_metadata",
    "write",
    "write_bands",
]
