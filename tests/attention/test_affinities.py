"""Every operator against its own dense matrix, values and gradients, at awkward sizes."""

import pytest
import torch
from tests.tolerances import TOLERANCE, assert_close
from torch import nn

from nlsr.attention import (
    Affinity,
    ChunkedAffinity,
    DenseAffinity,
    EfficientContrastive,
    GlobalLearnable,
    LearnableSparsePattern,
    Nearest,
    NonLocal,
    NonLocalSparse,
    ResidualAttention,
    SharedAttention,
)
from nlsr.attention.affinity import to_tokens
from nlsr.errors import ShapeError

OPERATORS = {
    "dense": lambda: NonLocal(8, reduction=2),
    "kmeans": lambda: LearnableSparsePattern(8, reduction=2, num_clusters=5, chunk_size=12),
    "hash": lambda: NonLocalSparse(8, reduction=2, chunk_size=12, rounds=2),
    "superbit": lambda: GlobalLearnable(8, reduction=2, chunk_size=12, rounds=2),
    "kernel": lambda: EfficientContrastive(8, reduction=2, num_features=16),
    "nearest": lambda: Nearest(8, reduction=2, num_nearest=5),
    "kmeans, three rounds": lambda: LearnableSparsePattern(8, reduction=1, num_clusters=4, chunk_size=16, rounds=3),
}
SIZES = [(1, 1), (1, 7), (5, 7), (12, 12), (33, 9)]


def features(batch, height, width, dtype=torch.float64):
    return torch.randn(batch, 8, height, width, dtype=dtype, generator=torch.Generator().manual_seed(1))


def tokens(affinity: Affinity, batch, channels=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, affinity.num_keys, channels, dtype=dtype, generator=generator)


@pytest.mark.parametrize("keep", ["stored", "recomputed"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OPERATORS)
def test_aggregate_equals_dense_matrix(name, size, batch, keep):
    affinity = OPERATORS[name]().double().match(features(batch, *size), keep=keep)
    values = tokens(affinity, batch)
    assert_close(affinity.aggregate(values), affinity.dense() @ values)


@pytest.mark.parametrize("keep", ["stored", "recomputed"])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (11, 9)])
@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_equal_those_of_the_dense_matrix(name, size, keep):
    def gradients(plain):
        operator = OPERATORS[name]().double()
        input = features(2, *size).requires_grad_()
        affinity = operator.match(input, keep=keep)
        values = tokens(affinity, 2).requires_grad_()
        if plain:
            scores = operator.score(to_tokens(operator.embed_score(input))) if name == "superbit" else None
            drawn = plain_matrix(affinity, scores) @ values
        else:
            drawn = affinity.aggregate(values)
        drawn.pow(3).sum().backward()
        return [input.grad, values.grad, *(p.grad for p in operator.parameters())]

    torch.manual_seed(0)
    fast = gradients(plain=False)
    torch.manual_seed(0)
    for ours, expected in zip(fast, gradients(plain=True), strict=True):
        assert_close(ours, expected, factor=10)


def plain_matrix(affinity: Affinity, slot_scores: torch.Tensor | None = None) -> torch.Tensor:
    """The affinity as the papers' formulas say it, position by position, differentiable by torch alone."""
    if hasattr(affinity, "projection"):
        exponents = [
            u @ affinity.projection.T - (u * u).sum(-1, keepdim=True) / 2 for u in (affinity.query, affinity.key)
        ]
        query, key = ((exponent.exp() + 1e-4) / affinity.projection.shape[0] ** 0.5 for exponent in exponents)
        products = query @ key.transpose(1, 2)
        return products / products.sum(-1, keepdim=True)
    if hasattr(affinity, "index"):
        chosen = torch.zeros(affinity.index.shape[0], affinity.num_queries, affinity.num_keys, dtype=torch.bool)
        chosen.scatter_(2, affinity.index.long(), True)
        key = affinity.embedding / affinity.embedding.norm(dim=-1, keepdim=True).clamp_min(5e-5)
        return (affinity.embedding @ key.transpose(1, 2)).masked_fill(~chosen, -torch.inf).softmax(-1)
    if not hasattr(affinity, "chunks"):
        return (affinity.query @ affinity.key.transpose(1, 2)).softmax(-1)
    query = affinity.embedding
    key = query / query.norm(dim=-1, keepdim=True).clamp_min(5e-5)
    batch, rounds, length = affinity.codes.shape
    size = affinity.chunks.chunk_size
    matrices, log_sums = [], []
    for b in range(batch):
        for r in range(rounds):
            order = sorted(range(length), key=lambda t: (int(affinity.codes[b, r, t]), t))
            padded = order + order[length - (-length % size) :]
            count = len(padded) // size
            matrix, log_sum = query.new_zeros(length, length), query.new_zeros(length)
            for slot, t in enumerate(order):
                chunk = slot // size
                around = [j % count for j in (chunk, chunk - 1, chunk + 1)]
                keys = [padded[j * size + i] for j in around for i in range(size)]
                scores = key[b, keys] @ query[b, t]
                if slot_scores is not None:
                    scores = scores + slot_scores[b, keys, slot % size]
                matrix = matrix.index_put((torch.tensor(t), torch.tensor(keys)), scores.softmax(0), accumulate=True)
                log_sum = log_sum.index_put((torch.tensor(t),), scores.logsumexp(0))
            matrices.append(matrix)
            log_sums.append(log_sum)
    matrix = torch.stack(matrices).unflatten(0, (batch, rounds))
    log_sum = torch.stack(log_sums).unflatten(0, (batch, rounds))
    return (matrix * log_sum.softmax(1)[..., None]).sum(1)


@pytest.mark.parametrize("name", OPERATORS)
def test_stored_and_recomputed_affinities_agree_in_values_and_gradients_through_many_reuses(name):
    results = []
    for keep in ("stored", "recomputed"):
        torch.manual_seed(0)
        first = SharedAttention(8, OPERATORS[name]()).double()
        others = nn.ModuleList(SharedAttention(8).double() for _ in range(4))
        input = features(2, 9, 7).requires_grad_()
        output, affinity = first(input, keep=keep)
        for block in others:
            output, affinity = block(output, affinity)
        output.square().sum().backward()
        embedding = next(
            first.operator.embed.parameters() if name not in ("dense", "kernel") else first.operator.parameters()
        )
        results.append((output, input.grad, embedding.grad, others[3].values.weight.grad))
    for stored, recomputed in zip(*results, strict=True):
        assert_close(stored, recomputed)


@pytest.mark.parametrize("keep", ["stored", "recomputed"])
@pytest.mark.parametrize("name", OPERATORS)
def test_a_map_in_many_blocks_draws_as_one_in_one_block(name, keep, monkeypatch):
    """Values and gradients; small maps fit into one block, unless it is made smaller."""
    results = []
    for block_bytes in (2**22, 4000):
        for module in ("streamed", "chunked"):
            monkeypatch.setattr(f"nlsr.attention.{module}.BLOCK_BYTES", block_bytes)
        monkeypatch.setattr("nlsr.attention.efficient_contrastive.SCORE_BLOCK_BYTES", block_bytes)
        torch.manual_seed(0)
        operator = OPERATORS[name]().double()
        input = features(2, 13, 9).requires_grad_()
        affinity = operator.match(input, keep=keep)
        values = tokens(affinity, 2).requires_grad_()
        drawn = affinity.aggregate(values)
        drawn.pow(3).sum().backward()
        results.append((drawn, input.grad, values.grad, *(parameter.grad for parameter in operator.parameters())))
    for one, many in zip(*results, strict=True):
        assert_close(many, one)


def chunked(embedding, rounds, keep):
    codes = torch.arange(embedding.shape[1]).mul(7).remainder(5).expand(len(embedding), rounds, -1)
    return ChunkedAffinity(codes + torch.arange(rounds)[:, None], embedding, chunk_size=12, keep=keep)


AFFINITIES = {
    "dense": lambda embedding: DenseAffinity(embedding, embedding.flip(1)),
    "stored": lambda embedding: chunked(embedding, 1, "stored"),
    "recomputed": lambda embedding: chunked(embedding, 1, "recomputed"),
    "stored, two rounds": lambda embedding: chunked(embedding, 2, "stored"),
    "recomputed, two rounds": lambda embedding: chunked(embedding, 2, "recomputed"),
}


@pytest.mark.parametrize("name", AFFINITIES)
def test_what_float32_embeds_is_matched_and_drawn_in_float32_also_under_autocast(name):
    results = []
    for enabled in (False, True):
        embedding = to_tokens(features(2, 5, 8, torch.float32)).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            affinity = AFFINITIES[name](embedding)
            values = tokens(affinity, 2, dtype=torch.float32).requires_grad_()
            drawn = affinity.aggregate(values)
        drawn.pow(3).sum().backward()
        results.append((drawn, embedding.grad, values.grad))
    for plain, autocast in zip(*results, strict=True):
        assert autocast.dtype == torch.float32
        assert_close(autocast, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keep", ["stored", "recomputed"])
@pytest.mark.parametrize("name", OPERATORS)
def test_low_precision_stays_close_to_double_precision(name, keep, dtype):
    operator = OPERATORS[name]()
    map = features(2, 8, 9, dtype).clamp(-1, 1)
    operator.to(dtype)
    affinity = operator.match(map, keep=keep)
    values = tokens(affinity, 2, dtype=dtype)
    drawn = affinity.aggregate(values)
    assert drawn.dtype == dtype
    assert_close(drawn, affinity.dense().double() @ values.double(), factor=3)


@pytest.mark.parametrize("keep", ["stored", "recomputed"])
@pytest.mark.parametrize("rounds", [1, 2])
def test_gradients_in_bfloat16_stay_close_to_those_in_double_precision(rounds, keep):
    def gradients(dtype):
        embedding = to_tokens(features(2, 5, 8).bfloat16()).to(dtype).requires_grad_()
        slot_scores = torch.linspace(-1, 1, 2 * 40 * 12).view(2, 40, 12).bfloat16().to(dtype).requires_grad_()
        codes = torch.arange(40).mul(7).remainder(5).expand(2, rounds, -1) + torch.arange(rounds)[:, None]
        affinity = ChunkedAffinity(codes, embedding, chunk_size=12, slot_scores=slot_scores, keep=keep)
        values = tokens(affinity, 2).bfloat16().to(dtype).requires_grad_()
        affinity.aggregate(values).backward(values.detach().flip(1))
        return embedding.grad, slot_scores.grad, values.grad

    for ours, exact in zip(gradients(torch.bfloat16), gradients(torch.float64), strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - exact).norm() < TOLERANCE[torch.bfloat16] * exact.norm()


@pytest.mark.parametrize("name", OPERATORS)
def test_an_image_alone_and_in_a_batch_of_equal_sizes_draws_on_the_same_positions(name):
    operator = OPERATORS[name]()
    batch = features(3, 13, 6, torch.float32)
    together = operator.match(batch)
    for i in range(3):
        alone = operator.match(batch[i : i + 1])
        assert_close(alone.dense()[0], together.dense()[i])


@pytest.mark.parametrize("name", OPERATORS)
def test_equal_calls_give_equal_bits(name):
    operator = OPERATORS[name]()
    input = features(1, 20, 17, torch.float32)
    assert torch.equal(operator.match(input).dense(), operator.match(input).dense())


@pytest.mark.parametrize("name", OPERATORS)
def test_rows_are_weights_that_sum_to_one(name):
    affinity = OPERATORS[name]().match(features(2, 7, 10, torch.float32))
    rows = affinity.rows(torch.tensor([0, 3, 69]))
    assert rows.shape == (2, 3, 70)
    assert (rows >= 0).all()
    assert_close(rows.sum(-1), torch.ones(2, 3))


@pytest.mark.parametrize("name", OPERATORS)
def test_joined_patches_are_one_map_in_training_and_apart_elsewhere(name):
    first, second = SharedAttention(8, OPERATORS[name]()).double(), SharedAttention(8).double()
    batch = features(4, 5, 7)
    halves = torch.cat([torch.cat([batch[0], batch[1]], 1)[None], torch.cat([batch[2], batch[3]], 1)[None]])

    def refine(input):
        refined, affinity = first(input)
        return second(refined, affinity)[0]

    apart, joined = refine(batch), refine(halves)
    for block in (first, second):
        block.joined_patches = 2
    torch.testing.assert_close(refine(batch), torch.cat([map.unflatten(1, (2, 5)).transpose(0, 1) for map in joined]))
    first.eval(), second.eval()
    torch.testing.assert_close(refine(batch), apart, rtol=0, atol=0)


def test_an_affinity_of_another_size_is_refused():
    block = SharedAttention(8, NonLocal(8))
    _, affinity = block(features(1, 4, 5, torch.float32))
    with pytest.raises(ShapeError, match=r"expected an affinity of a 4x4 map, got one of 4x5"):
        SharedAttention(8)(features(1, 4, 4, torch.float32), affinity)


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_is_a_residual_block(name):
    block = nn.Sequential(ResidualAttention(8, OPERATORS[name](), residual_scale=0.5), nn.Conv2d(8, 8, 1))
    input = features(2, 5, 7, torch.float32).requires_grad_()
    output = block(input)
    assert output.shape == input.shape
    operator = block[0].attention.operator
    drawn = operator.match(input).dense() @ to_tokens(block[0].attention.values(input))
    assert_close(output, block[1](input + 0.5 * drawn.transpose(1, 2).reshape(input.shape)))
    output.sum().backward()
    assert input.grad.isfinite().all()


def test_a_block_without_operator_needs_an_affinity():
    with pytest.raises(ShapeError, match="owns no operator"):
        SharedAttention(8)(features(1, 4, 4, torch.float32))


def test_a_reduction_that_does_not_divide_the_channels_is_refused():
    with pytest.raises(ShapeError, match="divides 8 channels, got 3"):
        NonLocal(8, reduction=3)


@pytest.mark.parametrize("keep", ["stored", "recomputed"])
@pytest.mark.parametrize("name", ["hash", "superbit", "kmeans, three rounds"])
def test_large_chunks_in_float32_take_another_product_and_give_the_same(name, keep):
    """From `LARGE_CHUNK` slots on."""
    operator = {
        "hash": lambda: NonLocalSparse(8, reduction=2, chunk_size=144, rounds=4),
        "superbit": lambda: GlobalLearnable(8, reduction=2, chunk_size=128, rounds=3),
        "kmeans, three rounds": lambda: LearnableSparsePattern(8, num_clusters=4, chunk_size=384, rounds=3),
    }[name]()
    affinity = operator.match(features(2, 21, 20, torch.float32), keep=keep)
    values = tokens(affinity, 2, dtype=torch.float32)
    assert_close(affinity.aggregate(values), affinity.dense() @ values, factor=10)


@pytest.mark.parametrize("keep", ["stored", "recomputed"])
@pytest.mark.parametrize("name", [name for name in OPERATORS if name != "kernel"])
def test_gradients_of_gradients_are_refused_and_never_wrong(name, keep):
    input = features(1, 5, 7).requires_grad_()
    affinity = OPERATORS[name]().double().match(input, keep=keep)
    drawn = affinity.aggregate(tokens(affinity, 1))
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(drawn.pow(2).sum(), input, create_graph=True)
