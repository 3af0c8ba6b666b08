"""LCoA, Learnable Collaborative Attention: positions are sorted by k-means cluster and attend within chunks.

Learnable Sparse Pattern: the clusters are learned while the network trains. Collaborative Attention: one affinity is
matched once and reused by all later blocks (`affinity.SharedAttention`).

Source: arXiv 2404.04922. In the published code the centroids are frozen after the first batch; here they learn, and
`learning="frozen"` is the published behaviour.
"""

import math
import warnings
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from nlsr.attention.affinity import Draws, Keep, map_size, matching_dtype, to_tokens
from nlsr.attention.chunked import ChunkedAffinity, chunked_floats, chunks_in_graph
from nlsr.attention.dense import embedding_width
from nlsr.attention.embedding import EmbeddingOperator
from nlsr.attention.streamed import in_graph
from nlsr.errors import NlsrWarning

Learning = Literal["moving-average", "frozen"]

LLOYD_STEPS = 10
MAX_START_SAMPLES = 16_384
"""Positions used to start the clusters; more change nothing that the moving average does not change at once."""
IDLE_STEPS = 20
"""A cluster without a member in so many batches running is dead and is re-seeded."""
ASSIGN_BLOCK = 4096
"""Positions whose similarities to all centroids exist at a time; fresh memory for all at once took longer than the
products."""
PRICED_ON = 1024
"""Evenly spread positions of an image that decide the prices of its clusters; 4096 change no recall."""
PRICE_STEPS = 5
"""Steps towards even clusters. After five the largest holds 4 % of the positions of pictures that repeat themselves,
after ten 3.8 %, without prices 23 %."""
SOFTNESS = 0.1
"""Difference of two cosines at which a position belongs e times as much to one cluster as to the other, while prices
are found. At half of it clusters are more even (3.3 %) and positions that are alike are parted more often."""


class KMeans(nn.Module):
    """Spherical k-means over the positions of all images, one independent clustering per round.

    Assigning never changes a buffer. `learn` is called by the training loop: the first call starts the centroids from
    the batch (k-means++ and ten Lloyd steps), every later one moves each centroid towards the mean direction of its
    members, re-seeds clusters that stayed empty, and sums over all ranks of a distributed run.

    With `learning="frozen"` the first call starts the centroids as published (random members, the same for all rounds,
    raw vectors) and later calls do nothing.

    Most of a picture may lie nearest to one centroid, the sky for instance: its cluster is then no pattern any more.
    With `balanced` each cluster of an image has a price (`prices`), which a position sets against its similarity.
    """

    centroids: Tensor  # (rounds, clusters, width), float32
    initialised: Tensor  # (), bool
    idle: Tensor  # (rounds, clusters), batches since the last member

    def __init__(
        self,
        num_clusters: int,
        width: int,
        *,
        rounds: int = 1,
        decay: float = 0.999,
        learning: Learning = "moving-average",
        balanced: bool = False,
    ) -> None:
        """
        Args:
            num_clusters, width: number and length of the centroids.
            rounds: independent clusterings.
            decay: decay of the moving average, per learning step.
            balanced: spread the positions of each image over the clusters as evenly as their likeness allows.
        """
        super().__init__()
        self.decay, self.learning, self.balanced = decay, learning, balanced
        start = torch.randn(rounds, num_clusters, width, generator=torch.Generator().manual_seed(0))
        self.register_buffer("centroids", F.normalize(start, dim=-1))
        self.register_buffer("initialised", torch.tensor(False))
        self.register_buffer("idle", torch.zeros(rounds, num_clusters, dtype=torch.int64))

    def extra_repr(self) -> str:
        rounds, num_clusters, width = self.centroids.shape
        return (
            f"{num_clusters}, {width}, rounds={rounds}, decay={self.decay}, learning={self.learning!r}, "
            f"balanced={self.balanced}"
        )

    @torch.no_grad()
    def forward(self, embedding: Float[Tensor, "b l d"]) -> Int[Tensor, "b r l"]:
        """The cluster of each position in each round; the lowest index on a tie."""
        samples = directions(embedding)
        return torch.stack([self._assigned(samples, centroids) for centroids in self.centroids], dim=1)

    def _assigned(self, samples: Float[Tensor, "b l d"], centroids: Float[Tensor, "k d"]) -> Int[Tensor, "b l"]:
        costs = prices(samples, centroids) if self.balanced else None
        if costs is None:
            return assign(samples.flatten(0, 1), centroids).view(samples.shape[:2])
        if in_graph():
            return _largest(samples @ centroids.to(samples.dtype).T - costs[:, None])
        return torch.stack([assign(image, centroids, cost) for image, cost in zip(samples, costs, strict=True)])

    @torch.no_grad()
    def learn(
        self, embedding: Float[Tensor, "b l d"], codes: Int[Tensor, "b r l"], *, generator: torch.Generator
    ) -> None:
        """One step of learning from a batch that was assigned `codes`.

        Args:
            generator: a CPU generator, in the same state on all ranks.
        """
        if not self.initialised:
            self._start(embedding, generator)
        elif self.learning == "moving-average":
            self._move(embedding, codes, generator)

    @torch.no_grad()
    def goodness(self, embedding: Float[Tensor, "b l d"], codes: Int[Tensor, "b r l"]) -> tuple[float, float]:
        """How well the clusters fit positions that were assigned `codes`: the mean cosine of a position to its
        centroid, and the entropy of the clusters' sizes as a share of log(clusters); each over all rounds."""
        samples = directions(embedding).flatten(0, 1)
        cosines, entropies = [], []
        for centroids, code in zip(self.centroids, codes.transpose(0, 1).flatten(1), strict=True):
            own = F.normalize(centroids.to(samples.dtype), dim=-1)[code]
            cosines.append((samples * own).sum(-1).mean().item())
            share = torch.bincount(code, minlength=len(centroids)) / code.numel()
            entropies.append(torch.special.entr(share).sum().item() / math.log(max(2, len(centroids))))
        return sum(cosines) / len(cosines), sum(entropies) / len(entropies)

    def _start(self, embedding: Tensor, generator: torch.Generator) -> None:
        if self.learning == "frozen":
            samples = _all_ranks(embedding.flatten(0, 1).to(self.centroids.dtype))
            first = random_indices(len(samples), self.centroids.shape[1], generator)
            self.centroids.copy_(lloyd(samples, samples[first]).expand_as(self.centroids))
        else:
            samples = _all_ranks(directions(embedding).flatten(0, 1).to(self.centroids.dtype))
            if len(samples) > MAX_START_SAMPLES:
                samples = samples[random_indices(len(samples), MAX_START_SAMPLES, generator)]
            for centroids in self.centroids:
                first = spread_indices(samples, len(centroids), generator)
                centroids.copy_(lloyd(samples, samples[first]))
        self.initialised.fill_(True)

    def _move(self, embedding: Tensor, codes: Tensor, generator: torch.Generator) -> None:
        samples = directions(embedding).flatten(0, 1)
        for centroids, idle, code in zip(self.centroids, self.idle, codes.transpose(0, 1).flatten(1), strict=True):
            sums, counts = member_sums(samples, code, len(centroids), together=True)
            means = torch.where(counts[:, None] > 0, F.normalize(sums, dim=-1), centroids)
            centroids.copy_(F.normalize(self.decay * centroids + (1 - self.decay) * means, dim=-1))
            idle.add_(1).masked_fill_(counts > 0, 0)
            dead = (idle >= IDLE_STEPS).nonzero().flatten()
            if len(dead):
                everyone = _all_ranks(samples)
                centroids[dead] = everyone[spread_indices(everyone, len(dead), generator, centroids)].to(
                    centroids.dtype
                )
                idle[dead] = 0


class LearnableSparsePattern(EmbeddingOperator):
    """Match positions within chunks of positions sorted by k-means cluster.

    A 3x3 convolution embeds the features; the embedding is query, key (normalised) and what is clustered.
    """

    network_settings = (
        "reduction",
        "num_clusters",
        "chunk_size",
        "rounds",
        "centroid_decay",
        "centroid_learning",
        "balanced",
    )
    groups_are = "k-means clusters"

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 1,
        num_clusters: int = 128,
        chunk_size: int = 384,
        rounds: int = 1,
        centroid_decay: float = 0.999,
        centroid_learning: Learning = "moving-average",
        balanced: bool = False,
    ) -> None:
        """
        Args:
            channels: number of channels of the features.
            reduction: the embedding has channels / reduction entries; must divide.
            num_clusters, rounds, balanced: arguments of the `KMeans`.
            centroid_decay, centroid_learning: `decay` and `learning` of the `KMeans`.
            chunk_size: sorted positions per chunk; each attends to three chunks. The paper calls it a window.
        """
        super().__init__()
        width = embedding_width(channels, reduction)
        self.embed = nn.Conv2d(channels, width, 3, padding=1)
        self.kmeans = KMeans(
            num_clusters,
            width,
            rounds=rounds,
            decay=centroid_decay,
            learning=centroid_learning,
            balanced=balanced,
        )
        self.chunk_size = chunk_size
        self._matched_with: int | None = None
        self._is_reminded = False

    def match(
        self, features: Float[Tensor, "b c h w"], *, draws: Draws | None = None, keep: Keep = "stored"
    ) -> ChunkedAffinity:
        self._remind()
        embedding, size = to_tokens(self.embed(features)), map_size(features)
        return ChunkedAffinity(self.kmeans(embedding), embedding, chunk_size=self.chunk_size, keep=keep, size=size)

    def _remind(self) -> None:
        """Say once, in training, that a step has passed and the clusters did not learn."""
        if torch.compiler.is_compiling():  # what follows would break the graph
            return
        trains = self.training and torch.is_grad_enabled() and not self.embed.weight.is_inference()
        if self._is_reminded or not trains:
            return
        state = self.embed.weight._version  # rises with each step
        self._matched_with = state if self._matched_with is None else self._matched_with
        if self.kmeans.initialised:
            self._is_reminded = True
        elif state != self._matched_with:
            self._is_reminded = True
            warnings.warn(
                "the clusters of a LearnableSparsePattern have not learned in a step of training: positions are sorted "
                "by chance; call nlsr.attention.learn(network) or operator.learn_from(affinity) after each step",
                NlsrWarning,
                stacklevel=2,
            )

    def floats_per_position(self, channels: int) -> int:
        rounds, _, width = self.kmeans.centroids.shape
        return chunked_floats(width, channels, rounds=rounds, chunk_size=self.chunk_size)

    def floats_in_graph(self) -> int:
        rounds, _, width = self.kmeans.centroids.shape
        return chunks_in_graph(width, rounds=rounds, chunk_size=self.chunk_size)

    def observe(self, affinity: ChunkedAffinity) -> tuple[Tensor, ...]:
        return affinity.embedding.detach(), affinity.codes

    def learn(self, *observed: Tensor, generator: torch.Generator) -> None:
        embedding, codes = observed
        self.kmeans.learn(embedding, codes, generator=generator)

    def fit(self, *observed: Tensor) -> dict[str, float]:
        """See `KMeans.goodness`."""
        cosine, entropy = self.kmeans.goodness(*observed)
        return {"cluster_cosine": cosine, "cluster_entropy": entropy}


def directions(embedding: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """Unit vectors in matching precision; a zero vector stays zero."""
    return F.normalize(embedding.to(matching_dtype(embedding.dtype)), dim=-1, eps=1e-12)


def assign(
    samples: Float[Tensor, "s d"], centroids: Float[Tensor, "k d"], costs: Float[Tensor, " k"] | None = None
) -> Int[Tensor, " s"]:
    """The centroid with the largest dot product, less its cost; the lowest index on a tie. Memory is bounded by a block
    of samples."""
    with torch.autocast(samples.device.type, enabled=False):
        centroids = centroids.to(samples.dtype).T
        blocks = [samples] if in_graph() else samples.split(ASSIGN_BLOCK)
        worth = (block @ centroids if costs is None else torch.addmm(-costs, block, centroids) for block in blocks)
        return torch.cat([each.max(-1).indices for each in worth])


def _largest(worth: Float[Tensor, "b l k"]) -> Int[Tensor, "b l"]:
    """The index of the largest, the lowest on a tie: of two reductions, which engines compute in a quarter of the time
    that they take to search."""
    last = worth.shape[-1] - 1
    found = worth >= worth.amax(-1, keepdim=True)
    return torch.where(found, torch.arange(last + 1, device=worth.device), last).amin(-1)


def prices(samples: Float[Tensor, "b l d"], centroids: Float[Tensor, "k d"]) -> Float[Tensor, "b k"]:
    """What each cluster of each image costs, so that all are taken about equally often.

    Sinkhorn's iteration (1967) between some positions of an image and its clusters, as an optimal transport between
    them, with an entropy, is solved (Cuturi 2013): each step divides a cluster's factor by the share that it got.

    Args:
        samples: unit vectors.
    """
    length, number = samples.shape[1], len(centroids)
    with torch.autocast(samples.device.type, enabled=False):
        some = torch.arange(PRICED_ON, device=samples.device) * length // PRICED_ON
        likeness = (samples[:, some] @ centroids.to(samples.dtype).T).div(SOFTNESS).softmax(-1)
        factors = samples.new_ones(samples.shape[0], number, 1)
        for _ in range(PRICE_STEPS):
            shares = likeness.mT @ (likeness @ factors).reciprocal()
            factors = (PRICED_ON / number) / shares.clamp_min(1e-20)
        return factors[..., 0].log() * -SOFTNESS


def member_sums(
    samples: Float[Tensor, "s d"], codes: Int[Tensor, " s"], num_clusters: int, *, together: bool = False
) -> tuple[Float[Tensor, "k d"], Int[Tensor, " k"]]:
    """The sum and the number of each cluster's members.

    Args:
        together: of all ranks.
    """
    sums = samples.new_zeros(num_clusters, samples.shape[1]).index_add_(0, codes, samples)
    counts = torch.bincount(codes, minlength=num_clusters)
    if together and is_distributed():
        distributed.all_reduce(sums)
        distributed.all_reduce(counts)
    return sums, counts


def lloyd(samples: Float[Tensor, "s d"], start: Float[Tensor, "k d"], steps: int = LLOYD_STEPS) -> Float[Tensor, "k d"]:
    """Lloyd steps by largest dot product; new centroids are unit vectors, an empty cluster keeps its old one."""
    centroids = start
    for _ in range(steps):
        sums, counts = member_sums(samples, assign(samples, centroids), len(centroids))
        centroids = torch.where(counts[:, None] > 0, F.normalize(sums, dim=-1), centroids)
    return centroids


def random_indices(num_samples: int, count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
    """Drawn without replacement, with it if there are too few samples."""
    if num_samples < count:
        return torch.randint(num_samples, (count,), generator=generator)
    return torch.randperm(num_samples, generator=generator)[:count]


def spread_indices(
    samples: Float[Tensor, "s d"],
    count: int,
    generator: torch.Generator,
    centroids: Float[Tensor, "k d"] | None = None,
) -> Int[Tensor, " count"]:
    """k-means++ (Arthur and Vassilvitskii 2007) on the sphere: samples far from what is chosen are likelier.

    The probability of a sample grows with 1 - cosine to the nearest of those chosen before, `centroids` included.
    """
    if centroids is None:
        chosen = [int(torch.randint(len(samples), (1,), generator=generator))]
        distance = 1 - samples @ samples[chosen[0]]
    else:
        chosen = []
        distance = 1 - torch.cat(
            [(block @ centroids.to(samples.dtype).T).amax(-1) for block in samples.split(ASSIGN_BLOCK)]
        )
    while len(chosen) < count:
        mass = distance.clamp_min(1e-12).double().cumsum(0)
        target = torch.rand((), generator=generator, dtype=torch.float64).item() * mass[-1]
        chosen.append(min(int(torch.searchsorted(mass, target)), len(samples) - 1))
        distance = torch.minimum(distance, 1 - samples @ samples[chosen[-1]])
    return torch.tensor(chosen, device=samples.device)


def is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _all_ranks(samples: Tensor) -> Tensor:
    """The samples of all ranks, in rank order; each rank must hold equally many."""
    if not is_distributed():
        return samples
    parts = [torch.empty_like(samples) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, samples.contiguous())
    return torch.cat(parts)
