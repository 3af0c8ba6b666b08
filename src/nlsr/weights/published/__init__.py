"""Weight files as their authors published them: how to know each network's, its sizes, and its names in ours."""

from nlsr.weights.published import asid, csnln, edsr, pan, smfanet
from nlsr.weights.published.edsr import RELATIVES
from nlsr.weights.published.published import Published, Rules, Tensors

PUBLISHED: dict[str, Published] = dict(
    sorted((asid.PUBLISHED | csnln.PUBLISHED | edsr.PUBLISHED | pan.PUBLISHED | smfanet.PUBLISHED).items())
)
"""Network -> reader of its files."""

__all__ = ["PUBLISHED", "RELATIVES", "Published", "Rules", "Tensors"]
