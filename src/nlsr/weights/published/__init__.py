"""Weight files as their authors published them: how to know each network's, its sizes, and its names in ours."""

from nlsr.weights.published import asid, atd, catanet, csnln, edsr, pan, pft, smfanet
from nlsr.weights.published.edsr import RELATIVES
from nlsr.weights.published.published import COLOUR_SHIFTS, Published, Rules, Tensors

PUBLISHED: dict[str, Published] = {
    network: reader
    for module in (asid, atd, catanet, csnln, edsr, pan, pft, smfanet)
    for network, reader in module.PUBLISHED.items()
}
PUBLISHED = dict(sorted(PUBLISHED.items()))
"""Network -> reader of its files."""

__all__ = ["COLOUR_SHIFTS", "PUBLISHED", "RELATIVES", "Published", "Rules", "Tensors"]
