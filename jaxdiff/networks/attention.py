"""Attention as two einsums and a softmax.

Fused kernels have no forward-mode derivative, which consistency and flow-map training need.
"""

import math

import jax
import jax.numpy as jnp

from jaxdiff.networks.embedding import wide
from jaxdiff.typing import Array


def attention(q: Array, k: Array, v: Array) -> Array:
    """softmax(q k^T / sqrt(c)) v for each head, the softmax in float32 at least; all are
    (batch, tokens, heads, c).
    """
    logits = jnp.einsum("bqhc,bkhc->bhqk", q, k, preferred_element_type=wide(q.dtype))
    weights = jax.nn.softmax(logits / math.sqrt(q.shape[-1]), axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bkhc->bqhc", weights, v)
