r"""The basis in which PAS (arXiv 2411.06503) corrects a step: a sample's trajectory so far.

The first axis is the direction of the step itself, the others the first three right-singular
vectors of the history, made orthogonal to it (:mod:`jaxdiff.tuning.learned.pas` has the formulas).

Numbers. The rows are all but parallel, and their Gram matrix has what sets them apart squared: in
float32 it makes u_4 of the first steps noise, another one in every sample (tests/tuning/test_pas).
Instead each sample keeps an orthonormal frame of its history, grown by Gram-Schmidt twice per row,
and all else is done on coordinates in that frame: matrices (m, m) with m the rows of the history. A
direction that rounding does not resolve counts as missing.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdiff.arrays import einsum
from jaxdiff.typing import Array


class Seen(NamedTuple):
    """A history of m rows of n numbers: an orthonormal frame (m, n) of it, with rows of zeros where
    there is no direction (yet), and the rows' coordinates (m, m) in that frame.
    """

    frame: Array
    rows: Array


def _unit(v: Array, least: Any) -> Array:
    """v/|v|, and 0 (its gradient as well) where |v| is at most ``least``."""
    square = jnp.sum(jnp.square(v))
    there = ~(square <= least**2)  # true for NaN, which is to be seen
    return jnp.where(there, v / jnp.sqrt(jnp.where(there, square, 1.0)), 0.0)


def take_in(seen: Seen, row: Array | int, v: Array) -> Seen:
    """Append a row to the history, whose frame grows by what is new in it."""
    frame, inside, rest = seen.frame, jnp.zeros_like(seen.rows[0]), v
    for _ in range(2):  # once leaves rounding errors as large as a small rest
        shares = einsum("mn,n->m", frame, rest)
        inside, rest = inside + shares, rest - einsum("m,mn->n", shares, frame)
    least = 10 * jnp.finfo(v.dtype).eps * jnp.sqrt(jnp.sum(jnp.square(lax.stop_gradient(v))))
    new = _unit(rest, least)
    coordinates = inside.at[row].add(einsum("n,n->", new, rest))
    return Seen(frame.at[row].set(new), seen.rows.at[row].set(coordinates))


@jax.custom_jvp
def _principal(rows: Array) -> Array:
    """Return the first three right-singular vectors of a square matrix, (3, m); 0 where there is
    none.
    """
    _, sizes, axes = jnp.linalg.svd(rows)
    return jnp.where(_negligible(sizes, sizes)[:3, None], 0.0, axes[:3])


def _negligible(differences: Array, sizes: Array) -> Array:
    return jnp.abs(differences) <= 10 * jnp.finfo(sizes.dtype).eps * sizes[0]


@_principal.defjvp
def _principal_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Return the change of v_k is sum_j v_j (g_k K_kj + g_j K_jk)/(g_k^2 - g_j^2), K_jk = u_j . dR
    v_k, over all j of another singular value g_j; of equal ones it is not defined, and left out.
    """
    left, g, axes = jnp.linalg.svd(primals[0])
    turned = einsum("ij,ia,ka->jk", left, tangents[0], axes)
    apart = g[None, :] - g[:, None]
    equal, missing = _negligible(apart, g), _negligible(g, g)[:3, None]
    gap = jnp.where(equal, 1.0, apart * (g[None, :] + g[:, None]))
    mixed = g[None, :] * turned.T + g[:, None] * turned
    change = einsum("jk,ja->ka", jnp.where(equal, 0.0, mixed / gap), axes)
    return jnp.where(missing, 0.0, axes[:3]), jnp.where(missing, 0.0, change[:3])


def axes_at(seen: Seen, row: Array | int, moved: Array, start: Array) -> Array:
    """Return the basis in coordinates of the frame, (4, m), at the time point of this row."""
    axes = [_unit(seen.rows[row], 0.0)]
    shift, origin = (einsum("mn,n->m", seen.frame, v) for v in (moved, start))
    for v in _principal(seen.rows):
        for _ in range(2):
            v = v - sum(einsum("m,m->", a, v) * a for a in axes)
        v = _unit(v, 100 * jnp.finfo(v.dtype).eps)
        along = einsum("m,m->", shift, v)
        along = jnp.where(along == 0, einsum("m,m->", origin, v), along)
        axes.append(jnp.where(along < 0, -v, v))
    return jnp.stack(axes)


def unseen(start: Array, rows: int, from_start: bool) -> Seen:
    """Return the history of one sample before its first time point, with room for ``rows``."""
    size = max(rows, 3)  # as many as there are to be singular vectors
    empty = jnp.zeros((size, start.shape[0]), start.dtype)
    seen = Seen(empty, jnp.zeros((size, size), start.dtype))
    return take_in(seen, 0, start) if from_start else seen


def basis(start: Array, directions: Array, y: Array, from_start: bool = True) -> Array:
    """Return the basis u_1, ..., u_4 of every sample, (batch, 4, *shape); 0 where there is none.

    start: (batch, *shape), x_T. directions: (k, batch, *shape), oldest first, the last one d. y:
    (batch, *shape), the state. from_start: whether x_T is a row of the history.
    """

    def one(x: Array, ds: Array, y: Array) -> Array:
        seen = unseen(x, len(ds) + 1, from_start)
        for row, d in enumerate(ds, 1):
            seen = take_in(seen, row, d)
        axes = axes_at(seen, len(ds), y - x, x)
        return einsum("km,mn->kn", axes, seen.frame)

    flat = [a.reshape(*a.shape[:k], -1) for a, k in ((start, 1), (directions, 2), (y, 1))]
    made = jax.vmap(one, (0, 1, 0))(*flat)
    return made.reshape(*made.shape[:2], *start.shape[1:])
