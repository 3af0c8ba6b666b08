"""Content-aware token aggregation (CATANet): positions sorted by their nearest centre, attention within chunks.

The centres are a moving average of k-means centres of the training batches. Linear in the positions. Knows nothing of
images or networks.

Source: Liu et al., "CATANet: Efficient Content-Aware Token Aggregation for Lightweight Image Super-Resolution",
CVPR 2025, arXiv 2503.06896. The published sort is not stable, so that groups depend on the machine; here it is.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed, nn

from nlsr.attention.affinity import Draws, Keep, check_size, map_size, to_map, to_tokens
from nlsr.attention.grouped import EveryKey, GroupAffinity, grouped_floats, joint_linear, weights_in_graph
from nlsr.attention.heads import HeadsOperator, check_heads
from nlsr.attention.learnable_collaborative import assign, directions, is_distributed, member_sums
from nlsr.attention.sorted_chunks import sorted_chunks
from nlsr.errors import ShapeError
from nlsr.mirror import mirrored


class TokenCentres(nn.Module):
    """Centres of the tokens of all images, by cosine.

    In evaluation the centres are the moving average as it is, with norms below one, as published. In training they are
    refined on the batch by a few steps of k-means, the last of them with a gradient to the tokens; the average follows
    when `learn` is called.
    """

    means: Tensor  # (centres, width), float32
    initialised: Tensor  # (), bool

    def __init__(self, num_centres: int, width: int, *, num_steps: int = 5, decay: float = 0.999) -> None:
        """
        Args:
            num_centres, width: number and length of the centres.
            num_steps: of k-means per batch.
            decay: of the moving average, per learning step.
        """
        super().__init__()
        self.num_steps, self.decay = num_steps, decay
        start = torch.randn(num_centres, width, generator=torch.Generator().manual_seed(0))
        self.register_buffer("means", directions(start))
        self.register_buffer("initialised", torch.tensor(False))

    def forward(self, tokens: Float[Tensor, "b l c"]) -> tuple[Float[Tensor, "k c"], Int[Tensor, "b l"]]:
        """The centres, and which of them is nearest to each token, the first of equal ones. No buffer changes."""
        flat = directions(tokens).flatten(0, 1)
        if self.training:
            with torch.no_grad():
                centres = self._refined(tokens, flat, self.num_steps - 1)
            centres = step(flat, centres)
        else:
            centres = self.means.to(flat.dtype)
        with torch.no_grad():
            labels = assign(flat, directions(centres)).view(tokens.shape[:2])
        return centres.to(tokens.dtype), labels

    @torch.no_grad()
    def learn(self, tokens: Float[Tensor, "b l c"]) -> None:
        """Move the average towards the centres of a batch, over all ranks; the first batch starts it."""
        centres = self._refined(tokens, directions(tokens).flatten(0, 1), self.num_steps, together=True)
        if self.initialised:
            self.means.lerp_(centres.to(self.means.dtype), 1 - self.decay)
        else:
            self.means.copy_(centres)
            self.initialised.fill_(True)

    def _refined(self, tokens: Tensor, flat: Tensor, num_steps: int, *, together: bool = False) -> Tensor:
        if self.initialised:
            centres = self.means.to(flat.dtype)
        else:
            centres = block_means(tokens.to(flat.dtype), len(self.means), together=together)
        for _ in range(num_steps):
            centres = step(flat, centres, together=together)
        return centres


class TokenAffinity(GroupAffinity):
    """Each position draws on those of its chunk of sorted positions and of the next, head by head."""

    centres: Float[Tensor, "k c"]
    """By which positions are sorted."""
    tokens: Float[Tensor, "b l c"]
    """What was matched, and what the centres learn from."""


class TokenAggregation(HeadsOperator):
    """Match positions within chunks of positions sorted by their nearest centre, and with the next chunk.

    softmax(d^(-1/2) query . key) head by head, with query and key linear in the features.
    """

    network_settings = ("chunk_size",)
    groups_are = "token centres"

    def __init__(
        self,
        channels: int,
        *,
        width: int | None = None,
        heads: int = 1,
        num_centres: int = 64,
        chunk_size: int = 64,
        num_steps: int = 5,
        centre_decay: float = 0.999,
    ) -> None:
        """
        Args:
            channels: of the features.
            width: of queries and keys, of all heads; as many as channels by default.
            heads: equal parts of queries, keys and values; must divide.
            num_centres, num_steps, centre_decay: of the `TokenCentres`.
            chunk_size: sorted positions per chunk; each attends to two chunks. The paper calls it a group.
        Raises: ShapeError if sizes do not fit each other.
        """
        super().__init__(channels, width=width, heads=heads, bias=False)
        if min(num_centres, chunk_size, num_steps) < 1:
            raise ShapeError(
                "expected num_centres, chunk_size and num_steps above zero, got "
                f"{num_centres}, {chunk_size}, {num_steps}"
            )
        self.centres = TokenCentres(num_centres, channels, num_steps=num_steps, decay=centre_decay)
        self.chunk_size = chunk_size

    def match(
        self, features: Float[Tensor, "b c h w"], *, draws: Draws | None = None, keep: Keep = "stored"
    ) -> TokenAffinity:
        """Nothing is drawn."""
        tokens = to_tokens(features)
        query, key = self.query(tokens) * self.score_scale, self.key(tokens)
        return self.match_embedded(tokens, query, key, *map_size(features), keep=keep)

    def match_embedded(
        self,
        tokens: Float[Tensor, "b l c"],
        query: Float[Tensor, "b l d"],
        key: Float[Tensor, "b l d"],
        height: int,
        width: int,
        *,
        keep: Keep,
    ) -> TokenAffinity:
        """As `match`, for whoever has queries, scaled, and keys of a height x width map already."""
        centres, labels = self.centres(tokens)
        layout = sorted_chunks(labels, chunk_size=self.chunk_size, span=2, size=(height, width))
        affinity = TokenAffinity(layout, query, key, heads=self.heads, keep=keep)
        affinity.centres, affinity.tokens = centres, tokens
        return affinity

    def floats_per_position(self, channels: int) -> int:
        return grouped_floats(self.width, channels, self.heads, keys=2 * self.chunk_size)

    def floats_in_graph(self) -> int:
        return weights_in_graph(self.heads, keys=2 * self.chunk_size)

    def observe(self, affinity: TokenAffinity) -> tuple[Tensor, ...]:
        return (affinity.tokens.detach(),)

    def learn(self, *observed: Tensor, generator: torch.Generator) -> None:
        """Nothing is drawn."""
        self.centres.learn(*observed)


@dataclass(frozen=True, eq=False)
class Aggregation:
    """What one block matched and others may use again."""

    positions: TokenAffinity
    """How positions draw on each other."""
    centres: GroupAffinity
    """How they draw on the centres."""


class TokenAggregationAttention(nn.Module):
    """One residual block: positions draw on each other and, with the same queries, on the centres.

    `features + mix(project(positions.aggregate(values(tokens)) + centres.aggregate(centre_values(centres))))`, where
    tokens are norm(features). A block without operator uses what another matched.
    """

    def __init__(self, channels: int, operator: TokenAggregation | None = None) -> None:
        """
        Args:
            channels: of the features, in and out.
            operator: matches the features; None for a block that only reuses.
        """
        super().__init__()
        if operator is not None:
            check_heads(channels, operator.heads)
        self.norm = nn.LayerNorm(channels)
        self.operator = operator
        if operator is not None:
            self.centre_key = nn.Linear(channels, operator.key.out_features, bias=False)
        self.values = nn.Linear(channels, channels, bias=False)
        self.centre_values = nn.Linear(channels, channels, bias=False)
        self.project = nn.Linear(channels, channels, bias=False)
        self.mix = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(
        self, features: Float[Tensor, "b c h w"], matched: Aggregation | None = None, *, keep: Keep = "stored"
    ) -> tuple[Float[Tensor, "b c h w"], Aggregation]:
        """Returns the refined features and what was matched, for another block.

        Raises: ShapeError if the block owns no operator and gets nothing, or something of another size.
        """
        height, width = map_size(features)
        tokens = self.norm(to_tokens(features))
        if matched is None:
            matched, values = self._match(tokens, height, width, keep)
        else:
            check_size(matched.positions, height, width)
            values = self.values(tokens)
        centre_values = self.centre_values(matched.positions.centres).expand(tokens.shape[0], -1, -1)
        drawn = matched.positions.aggregate(values) + matched.centres.aggregate(centre_values)
        return features + self.mix(to_map(self.project(drawn), height, width)), matched

    def _match(self, tokens: Tensor, height: int, width: int, keep: Keep) -> tuple[Aggregation, Tensor]:
        operator = self.operator
        if operator is None:
            raise ShapeError("this block owns no operator: expected an affinity to reuse, got none")
        query, key, values = joint_linear(tokens, operator.query, operator.key, self.values)
        query = query * operator.score_scale
        positions = operator.match_embedded(tokens, query, key, height, width, keep=keep)
        centre_key = self.centre_key(positions.centres).expand(tokens.shape[0], -1, -1)
        layout = EveryKey(height, width, centre_key.shape[1])
        return Aggregation(positions, GroupAffinity(layout, query, centre_key, heads=operator.heads, keep=keep)), values


def step(flat: Float[Tensor, "s c"], centres: Float[Tensor, "k c"], *, together: bool = False) -> Float[Tensor, "k c"]:
    """One step of k-means by cosine: unit vectors in, unit vectors out; a centre without a member stays.

    The gradient reaches the tokens through the sums; which centre is nearest has none.

    Args:
        together: whether sums are those of all ranks.
    """
    centres = directions(centres)
    sums, counts = member_sums(flat, assign(flat.detach(), centres), len(centres), together=together)
    return torch.where(counts[:, None] > 0, directions(sums), centres)


def block_means(tokens: Float[Tensor, "b l c"], num_blocks: int, *, together: bool) -> Float[Tensor, "k c"]:
    """Where centres start: the means of equal blocks of the sequence, over the batch.

    The sequence is continued by its mirror image to the next multiple of the number of blocks, as published by a whole
    block's worth where it is one already.
    """
    length = tokens.shape[1]
    padded = length + num_blocks - length % num_blocks
    whole = tokens.mean(0)[mirrored(0, padded, length, tokens.device)]
    means = whole.unflatten(0, (num_blocks, -1)).mean(1)
    if together and is_distributed():
        distributed.all_reduce(means)
        means /= distributed.get_world_size()
    return means
