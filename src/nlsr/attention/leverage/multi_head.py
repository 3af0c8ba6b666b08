"""Multi-head self-attention on key sets, in place of the attention of a vision transformer."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from nlsr.attention.affinity import Affinity
from nlsr.attention.dense import DenseAffinity
from nlsr.attention.heads import HeadsAffinity, check_heads, split_heads
from nlsr.attention.leverage.affinities import KeySetAffinity
from nlsr.attention.leverage.scores import leverage_scores
from nlsr.attention.leverage.selection import top_r
from nlsr.errors import ShapeError


class MultiHeadLeverage(nn.Module):
    """Self-attention in which each head of each sample draws on its `num_keys` best keys alone.

    Its weights are named `qkv` and `proj`, as in timm's vision transformers, so that a pretrained state dict fits:
    used as it is (only the set is new), or trained further. `from_torch` takes an `nn.MultiheadAttention`.

    `num_keys` may be set at any time; None is full attention.

    Source: arXiv 2410.05462, section on vision transformers.
    """

    def __init__(
        self,
        width: int,
        heads: int = 8,
        *,
        num_keys: int | None = None,
        bias: bool = True,
        scores: Callable[[Tensor], Tensor] = leverage_scores,
    ) -> None:
        """
        Args:
            width: entries of a token.
            heads: equal parts of queries, keys and values; must divide.
            num_keys: per head; all if there are fewer tokens. A class token is a key like the others.
            bias: whether queries, keys and values have one.
            scores: function from keys (b, n, d) to scores (b, n); the largest are chosen.
        Raises: ShapeError if sizes do not fit each other.
        """
        super().__init__()
        check_heads(width, heads)
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)
        self.heads, self.num_keys, self.scores = heads, num_keys, scores

    @classmethod
    def from_torch(cls, attention: nn.MultiheadAttention, *, num_keys: int | None = None) -> "MultiHeadLeverage":
        """The same weights. Tokens are batch first whatever they were, and no weight is dropped out.

        Raises: ShapeError if the module is made for other keys than its queries.
        """
        if attention.in_proj_weight is None or attention.bias_k is not None or attention.add_zero_attn:
            raise ShapeError(
                "expected an nn.MultiheadAttention for self-attention, got one with kdim, vdim, add_bias_kv or "
                "add_zero_attn; such a module cannot be converted"
            )
        weight, bias, out = attention.in_proj_weight, attention.in_proj_bias, attention.out_proj
        ours = cls(attention.embed_dim, attention.num_heads, num_keys=num_keys, bias=bias is not None)
        ours.proj = nn.Linear(attention.embed_dim, attention.embed_dim, bias=out.bias is not None)
        ours.to(weight)
        ours.qkv.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
        ours.proj.load_state_dict(out.state_dict())
        return ours

    def forward(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        query, key, values = self.qkv(tokens).chunk(3, dim=-1)
        return self.proj(self.match(query, key).aggregate(values))

    def match(self, query: Float[Tensor, "b n c"], key: Float[Tensor, "b n c"]) -> Affinity:
        """The affinity of embedded queries and keys; its rows are those of all heads, folded into the batch."""
        query, key = (split_heads(tokens, self.heads) for tokens in (query, key))
        scale = query.shape[2] ** -0.5
        if self.num_keys is None:
            return HeadsAffinity(DenseAffinity(scale * query, key), self.heads)
        key_set = top_r(self.scores(key.detach()), self.num_keys)
        return HeadsAffinity(KeySetAffinity(query, key, key_set, scale=scale, keep="stored"), self.heads)
