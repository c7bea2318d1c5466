r"""Samples that attend to each other: a source and its edit, side by side.

A state of a group is (batch, members, *shape), the source first, and its condition has the same two
axes, so that every group is one sample of a sampler's batch and depends on no other:

    D = grouped(denoiser, attention)                       # attention of this folder
    jd.sample(D, table, start, cond)                       # start (batch, 2, *shape)

Where the group starts from one noise, and the controllers leave the source alone, its first member
is the source's own sample.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.denoisers import as_partial, conditioned
from jaxdiff.typing import Array, Cond, Denoiser


def grouped(denoiser: Denoiser, attention: Any = None) -> Partial:
    """Return the denoiser of groups (batch, members, *shape), whose layers call ``attention``.

    Args:
        denoiser: ``D(y, level, cond)`` of a network with attention layers.
        attention: of :mod:`jaxdiff.conditioning.attention`, or any function (q, k, v, place) of
            (batch * members, tokens, heads, c), members of a group next to each other; None for the
            network's own.

    Raises ValueError, when called, for states without members, or a condition with other axes.
    """
    D = as_partial(denoiser) if attention is None else conditioned(denoiser, attention=attention)
    return Partial(_grouped, D)


def _grouped(denoiser: Partial, y: Array, level: Array, cond: Cond = None, **options: Any) -> Array:
    if y.ndim < 3:
        raise ValueError(f"states of groups are (batch, members, *shape), not {y.shape}")
    members = y.shape[1]

    def flat(x: Array) -> Array:
        if jnp.shape(x)[:2] != y.shape[:2]:
            raise ValueError(
                f"a condition of groups has the axes {y.shape[:2]} of their states first; this is "
                f"{jnp.shape(x)}"
            )
        return jnp.reshape(x, (-1, *x.shape[2:]))

    level = jnp.asarray(level, y.dtype)
    level = jnp.repeat(level, members) if level.ndim else level
    out = denoiser(flat(y), level, jax.tree.map(flat, cond), **options)
    return out.reshape(y.shape)


def members_of(x: Array, count: int, name: str) -> Array:
    """Return rows (batch * members, ...) as (batch, members, ...). ValueError, naming the
    controller, for rows that are no groups of ``count``.
    """
    if x.shape[0] % count:
        raise ValueError(f"{name} is for groups of {count}, and {x.shape[0]} rows are none")
    return x.reshape(-1, count, *x.shape[1:])
