"""Pictures as networks see them: reading and writing files, luma, and MATLAB's resize."""

from nlsr.images.colour import luma
from nlsr.images.files import ENDINGS, check_target, read, write
from nlsr.images.picture import Picture
from nlsr.images.resize import resize

__all__ = ["ENDINGS", "Picture", "check_target", "luma", "read", "resize", "write"]
