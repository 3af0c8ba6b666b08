"""One embedding of the features as queries and, normalised, as keys: how NLSA, GLA, LCoA and `nearest` match."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from nlsr.attention.affinity import Operator, map_size, matching_dtype, to_tokens
from nlsr.attention.dense import DenseAffinity

KEY_NORM_FLOOR = 5e-5
"""Published lower bound of a key's norm when it is normalised."""


class EmbeddingOperator(Operator):
    """An operator whose queries are an embedding of the features, and whose keys are the same vectors, normalised."""

    embed: Any
    """A module from the features to what is matched."""

    def exact(self, features: Float[Tensor, "b c h w"]) -> DenseAffinity:
        """Without learned scores, which belong to slots."""
        embedding = to_tokens(self.embed(features))
        return DenseAffinity(embedding, unit_keys(embedding), size=map_size(features))


def unit_keys(embedding: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
    """The keys of an embedding, in matching precision."""
    embedding = embedding.to(matching_dtype(embedding.dtype))
    return embedding / embedding.norm(dim=-1, keepdim=True).clamp_min(KEY_NORM_FLOOR)
