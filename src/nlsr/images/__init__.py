"""Pictures as networks see them: reading and writing files, luma, and MATLAB's resize."""

from nlsr.images.alpha import bleed
from nlsr.images.bicubic import resize
from nlsr.images.colour import luma
from nlsr.images.colour_space import ColourSpace
from nlsr.images.files import (
    ENDINGS,
    FOREIGN_ENDINGS,
    MAX_PIXELS,
    READ_ENDINGS,
    Header,
    check_format,
    check_target,
    format_named,
    format_of,
    holds_alpha,
    is_picture,
    one_line,
    read,
    read_header,
    write,
    write_bands,
)
from nlsr.images.formats.encode import encoder_bytes, streams
from nlsr.images.patches import APART, PATCH_SIDE, high_res_patches
from nlsr.images.picture import Picture, filled, flattened, without_metadata
from nlsr.images.samples import as_float, from_8_bits, to_8_bits
from nlsr.images.tone_map import tone_mapped

__all__ = [
    "APART",
    "ENDINGS",
    "FOREIGN_ENDINGS",
    "MAX_PIXELS",
    "PATCH_SIDE",
    "READ_ENDINGS",
    "ColourSpace",
    "Header",
    "Picture",
    "as_float",
    "bleed",
    "check_format",
    "check_target",
    "encoder_bytes",
    "filled",
    "flattened",
    "format_named",
    "format_of",
    "from_8_bits",
    "high_res_patches",
    "holds_alpha",
    "is_picture",
    "luma",
    "one_line",
    "read",
    "read_header",
    "resize",
    "streams",
    "to_8_bits",
    "tone_mapped",
    "without_metadata",
    "write",
    "write_bands",
]
