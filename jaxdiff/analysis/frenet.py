r"""Curvature and torsion of trajectories, exactly and by the published fit.

Of a curve with derivatives x', x'', x''' in any parameter, in any number of dimensions, with
a = x'' without its part along x', and b = x''' without its parts along x' and a,

    curvature  |a|/|x'|^2,     torsion  |b|/(|x'| |a|)

(the first two generalised curvatures; in three dimensions the second is the torsion without its
sign). A trajectory of the probability flow has its derivatives from the denoiser itself
(:func:`jaxdiff.analysis.flow_derivatives`), in all dimensions and at each state by itself: no
window, no fit, no projection, no accurate solution around it.

What was published is a cubic polynomial in arc length, fitted by least squares to a window of
points of the projection to three dimensions (:func:`jaxdiff.analysis.boomerang`). It needs about
1,000 points, uniform in the level; points nearer to an end than half a window have the window that
still fits in, so that only what lies inside compares.

Sources: Chen et al., On the trajectory regularity of ODE-based diffusion sampling, arXiv
2405.11326, and Geometric regularity in deterministic sampling of diffusion-based generative
models, arXiv 2506.10177 (curvature and torsion of trajectories; window of 101 points); Gluck 1966,
doi 10.1080/00029890.1966.11970818 (generalised curvatures).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Float

from jaxdiff.analysis.denoising import flow_derivatives
from jaxdiff.analysis.points import compiled, divide, states_of, vectors
from jaxdiff.arrays import check_cond, einsum
from jaxdiff.brief import short
from jaxdiff.denoisers import as_partial
from jaxdiff.distance import norm
from jaxdiff.sampling.sample import Trajectory
from jaxdiff.typing import Array, Cond, Denoiser, States


class Frenet(NamedTuple):
    """Curvature and torsion, both not negative, in 1 over units of the data; their shapes are those
    of the points. Where the curvature is 0 to rounding the torsion has no meaning.
    """

    __repr__ = short

    curvature: Array
    torsion: Array


@compiled()
def curvatures(first: States, second: States, third: States) -> Frenet:
    """Return curvature and torsion from the derivatives of curves in any parameter.

    Args:
        first, second, third: x', x'', x''', (batch, *shape).

    Returns:
        :class:`Frenet`, each (batch,); 0 where a curve stands still, and the torsion where it is
        straight.

    Source: Gluck 1966, doi 10.1080/00029890.1966.11970818.
    """
    speed, a, b = (v.reshape(len(v), -1) for v in (first, second, third))
    a = _without(a, speed)
    b = _without(_without(b, speed), a)
    b = _without(_without(b, speed), a)  # again, against rounding
    size, bend = norm(speed), norm(a)
    return Frenet(divide(bend, size**2), divide(norm(b), size * bend))


def _without(a: Array, direction: Array) -> Array:
    along = jnp.sum(a * direction, axis=1, keepdims=True)
    return a - divide(along, jnp.sum(direction**2, axis=1, keepdims=True)) * direction


def frenet(denoiser: Denoiser, path: Trajectory, cond: Cond = None) -> Frenet:
    """Return the exact curvature and torsion of the probability flow at states of a trajectory.

    At each state they are those of the exact solution through it, whatever solver led there. Costs
    about a dozen evaluations for each state.

    Args:
        denoiser: ``D(y, level, cond)``, three times differentiable.
        path: of :func:`jaxdiff.trajectory`.
        cond: handed to the denoiser.

    Returns:
        :class:`Frenet`, each (A + 1, batch); NaN at level 0, where the flow has no derivatives.

    Raises:
        ValueError, TypeError: for a trajectory of other shapes, or another cond.

    Source: as of the module.
    """
    states, levels = states_of(path)
    check_cond(cond, states.shape[1])
    return _frenet(as_partial(denoiser), states, levels, cond)


@jax.jit
def _frenet(D: Partial, states: Array, levels: Array, cond: Cond) -> Frenet:
    def one(pair: tuple[Array, Array]) -> Frenet:
        y, level = pair
        made = curvatures(*flow_derivatives(D, y, jnp.where(level > 0, level, 1), cond))
        return jax.tree.map(lambda a: jnp.where(level > 0, a, jnp.nan), made)

    return lax.map(one, (states, levels))


def fitted_frenet(curves: Float[Array, "points batch m"], window: int = 101) -> Frenet:
    """Return curvature and torsion by a least-squares cubic in arc length around each point.

    Args:
        curves: (points, batch, m), as of :func:`jaxdiff.analysis.boomerang`, of finely solved
            trajectories; or states, flattened.
        window: points fitted, odd, from 5 to all of them.

    Returns:
        :class:`Frenet`, each (points, batch); NaN where the curve stands still.

    Raises:
        ValueError, TypeError: for another shape or window.

    Source: Chen et al., arXiv 2506.10177. Deviation: the polynomial has a constant term, and the
    sign of the torsion is not kept.
    """
    flat = vectors("curves", curves, least=5)
    if window % 2 == 0 or not 5 <= window <= len(flat):
        raise ValueError(f"window must be odd, 5 to {len(flat)} points here; got {window}")
    return _fitted(flat, window)


@functools.partial(jax.jit, static_argnums=1)
def _fitted(flat: Array, window: int) -> Frenet:
    steps = jnp.sqrt(jnp.sum(jnp.diff(flat, axis=0) ** 2, axis=2))
    length = jnp.concatenate([jnp.zeros_like(steps[:1]), jnp.cumsum(steps, axis=0)])

    def at(i: Array) -> Frenet:
        first = jnp.clip(i - window // 2, 0, len(flat) - window)
        u = lax.dynamic_slice_in_dim(length, first, window) - length[i][None]
        scale = jnp.max(jnp.abs(u), axis=0)
        powers = (u / scale[None])[..., None] ** jnp.arange(4, dtype=u.dtype).reshape(1, 1, 4)
        powers = powers.at[..., 0].set(1)
        x = lax.dynamic_slice_in_dim(flat, first, window) - flat[i][None]
        normal = einsum("wbi,wbj->bij", powers, powers)
        right = einsum("wbi,wbm->bim", powers, x)
        c = jnp.linalg.solve(normal, right)
        scale = scale[:, None]
        return curvatures(c[:, 1] / scale, 2 * c[:, 2] / scale**2, 6 * c[:, 3] / scale**3)

    return lax.map(at, jnp.arange(len(flat)))
