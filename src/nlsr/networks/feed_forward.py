"""The feed-forward of CATANet, PFT and ATD: a depthwise convolution adds to what each position makes of itself."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nlsr.attention.affinity import map_size, to_map, to_tokens


class ConvFeedForward(nn.Module):
    """`features + project(z + GELU(depthwise(z)))` with `z = GELU(expand(norm(features)))`; GELU is exact."""

    def __init__(self, channels: int, hidden: int, *, kernel_size: int = 5) -> None:
        """
        Args:
            channels: of the features, in and out.
            hidden: width of z.
            kernel_size: of the depthwise convolution; odd.
        """
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, kernel_size, padding=kernel_size // 2, groups=hidden)
        self.project = nn.Linear(hidden, channels)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        size = map_size(features)
        hidden = to_map(F.gelu(self.expand(self.norm(to_tokens(features)))), *size)
        hidden = hidden + F.gelu(self.depthwise(hidden))
        return features + to_map(self.project(to_tokens(hidden)), *size)
