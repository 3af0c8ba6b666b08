"""A non-local operator of our own: every position draws on the positions of a grid that is spread over the map.

`import strided` makes it known as "strided", in Python and by `--import strided` of the commands.
"""

import torch
from torch import nn

from nlsr.attention import Affinity, Operator, register
from nlsr.attention.affinity import map_size, to_tokens


class Strided(Operator):
    """Match every position with `side` * `side` others at most, by the softmax of an embedded product."""

    def __init__(self, channels, *, side=8, width=8):
        super().__init__()
        self.query = nn.Conv2d(channels, width, 1)
        self.key = nn.Conv2d(channels, width, 1)
        self.side = side

    def match(self, features, *, draws=None, keep="stored"):
        height, width = map_size(features)
        rows, columns = (torch.arange(0, length, -(-length // self.side)) for length in (height, width))
        places = (rows[:, None] * width + columns).flatten().to(features.device)
        query, key = to_tokens(self.query(features)), to_tokens(self.key(features))[:, places]
        return StridedAffinity((query @ key.mT).softmax(-1), places, size=(height, width))

    def floats_per_position(self, channels):
        return self.side**2 + 2 * self.query.out_channels


class StridedAffinity(Affinity):
    reach_is = "on its grid"

    def __init__(self, weights, places, *, size):
        super().__init__(weights.shape[1], size=size)
        self.weights, self.places = weights, places

    def aggregate(self, values):
        return self.weights.to(values.dtype) @ values[:, self.places]

    def rows(self, queries):
        chosen = self.weights[:, queries]
        rows = chosen.new_zeros(*chosen.shape[:2], self.num_keys)
        rows[:, :, self.places] = chosen
        return rows

    def reach(self, queries):
        return self.marked(self.places)


register("strided", Strided)
