r"""The three-dimensional picture of trajectories: along the chord, and across it.

Every trajectory has coordinates of its own: the direction of its chord, and the principal
components of what is left (:func:`jaxdiff.analysis.chord_complement`). In them, with their signs
fixed, all trajectories look alike, a boomerang; turned onto each other by the orthogonal Procrustes
problem they nearly coincide.

Sources: Chen et al., On the trajectory regularity of ODE-based diffusion sampling, arXiv
2405.11326, section 3; Chen et al., Geometric regularity in deterministic sampling of
diffusion-based generative models, arXiv 2506.10177.
"""

import jax.numpy as jnp
from jaxtyping import Float

from jaxdiff.analysis.components import decomposed
from jaxdiff.analysis.points import compiled, divide, floating, vectors
from jaxdiff.arrays import einsum
from jaxdiff.typing import Array


@compiled("count")
def boomerang(
    points: Float[Array, "points batch *shape"], count: int = 2
) -> Float[Array, "points batch axes"]:
    """Return the coordinates of each trajectory along its chord and the first components of the
    rest: the three-dimensional picture in which all look alike.

    The end is the origin, and the start lies at minus the chord's length on the first axis. Signs
    are fixed: the second coordinate is positive in the mean, every later one in the mean up to
    where the second is largest. The components are of the chord's complement, not centred, so that
    both ends lie on the first axis.

    Args:
        points: (points, batch, *shape), at least two points.
        count: components besides the chord; coordinates that do not exist, for want of points or
            of dimensions, are 0.

    Returns:
        (points, batch, 1 + count).

    Raises:
        ValueError, TypeError: for another shape or dtype.

    Source: Chen et al., arXiv 2405.11326, section 3, and arXiv 2506.10177. Deviation: the
    singular value decomposition is of each trajectory, in full, where the published code has a
    randomised one.
    """
    flat = vectors("points", points)
    if count < 0:
        raise ValueError(f"count must not be negative; got {count}")
    chord = flat[-1] - flat[0]
    size = jnp.sqrt(jnp.sum(chord**2, axis=1))
    along = jnp.sum((flat - flat[-1:]) * divide(chord, size[:, None])[None], axis=2)
    others = jnp.moveaxis(decomposed(points, True, False)[0], 0, 1)[..., :count]
    others = jnp.pad(others, [(0, 0), (0, 0), (0, count - others.shape[2])])
    if count:
        others = others * _sign(jnp.sum(others[..., :1], axis=0))[None]
        peak = jnp.argmax(others[..., 0], axis=0)
        before = (jnp.arange(len(flat))[:, None] <= peak[None])[..., None]
        signs = _sign(jnp.sum(jnp.where(before, others, 0), axis=0))
        others = others * signs.at[:, 0].set(1)[None]
    return jnp.concatenate([along[..., None], others], axis=2)


def _sign(x: Array) -> Array:
    return jnp.where(x < 0, -1, 1).astype(x.dtype)


@compiled()
def overlay(
    curves: Float[Array, "points batch m"], reference: Float[Array, "points m"]
) -> Float[Array, "points batch m"]:
    """Turn curves onto a reference: the orthogonal Procrustes problem, each curve its own.

    The best R of |curve R - reference| over orthogonal matrices, rotations and reflections, is
    U V^T of the singular value decomposition curve^T reference = U S V^T.

    Args:
        curves: (points, batch, m), as of :func:`boomerang`.
        reference: (points, m), one of them or their mean.

    Returns:
        (points, batch, m), the turned curves.

    Raises:
        ValueError, TypeError: for shapes that do not go together, or numbers not floating.

    Source: Schoenemann 1966, doi 10.1007/BF02289451; Chen et al., arXiv 2405.11326, section 3.
    """
    curves, reference = floating("curves", curves), floating("reference", reference)
    if curves.ndim != 3 or reference.shape != (curves.shape[0], curves.shape[2]):
        raise ValueError(
            f"curves (points, batch, m) are turned onto a reference (points, m); the shapes are "
            f"{curves.shape} and {reference.shape}"
        )
    left, _, right = jnp.linalg.svd(einsum("nbi,nj->bij", curves, reference))
    return einsum("nbi,bik,bkj->nbj", curves, left, right)
