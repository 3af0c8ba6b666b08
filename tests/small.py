"""Small networks of every kind that can be exported, in which every part has an effect."""

from dataclasses import replace

import torch

from nlsr.networks import (
    ASIDConfig,
    ATDConfig,
    CATANetConfig,
    DLSNConfig,
    ENLCNConfig,
    LCoANConfig,
    NLANConfig,
    NLSNConfig,
    PANConfig,
    PFTConfig,
    SMFANetConfig,
    build,
)

CATANET = CATANetConfig(
    2, channels=8, width=8, hidden=8, heads=2, num_centres=(4,), chunk_sizes=(16,), num_steps=(1,), window_sizes=(6,)
)
LCOAN = LCoANConfig(2, channels=8, num_groups=2, num_blocks=1, num_clusters=4, chunk_size=16, balanced=True)
PLAIN = {
    "lcoan": LCOAN,
    "smfanet": SMFANetConfig(2, channels=8, num_blocks=1),
    "pan": PANConfig(4, channels=8, upsampler_channels=4, num_blocks=1),
}
OF_POSITIONS = {
    "lcoan, two rounds": replace(LCOAN, scale=3, rounds=2, share=False, balanced=False),
    "enlcn": ENLCNConfig(2, channels=8, num_blocks=2),
    "dlsn": DLSNConfig(2, channels=8, num_groups=1, num_blocks=1, reduction=2, chunk_size=16, rounds=2),
    "nlan": NLANConfig(2, channels=8, num_groups=1, num_blocks=1),
    "nlsn": NLSNConfig(2, channels=8, num_blocks=1, reduction=2, chunk_size=16, rounds=2),
}
OF_WINDOWS = {
    "asid": ASIDConfig(2, channels=8, num_groups=1),
    "atd": ATDConfig(
        2,
        channels=8,
        depths=(2,),
        heads=(2,),
        window_size=4,
        chunk_size=16,
        num_tokens=4,
        token_width=4,
        hidden=8,
        kernel_size=3,
    ),
    "catanet": CATANET,
    "catanet, average as published": replace(CATANET, overlap_average="published"),
    "pft": PFTConfig(2, channels=8, depths=(3,), heads=2, window_size=8, num_keys=(64, 16, 2), hidden=8, kernel_size=3),
}
"""Recording a graph of these takes long."""

OF_OTHER_SCALES = {"pan, x3": replace(PLAIN["pan"], scale=3)}
"""A convolution of squares is another one in a graph."""


def small(name="lcoan"):
    return with_effect(build((PLAIN | OF_POSITIONS | OF_WINDOWS | OF_OTHER_SCALES)[name]))


def with_effect(network):
    """Attention starts as the identity, and what changes nothing would not be missed."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()
