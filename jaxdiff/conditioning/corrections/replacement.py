r"""Replacement: what is known of a sample takes its place in every state, with the state's noise.

    y <- m (known + s n) + (1 - m) y,       n standard normal

(Song et al. 2011.13456, section 5 and appendix I.2; blended diffusion, Avrahami et al. 2111.14818,
algorithm 2, where ``known`` is the background and m is 1 outside of what is edited; RePaint,
Lugmayr et al. 2201.09865, eq. 8). The conditional distribution is not sampled exactly by it: what
is unknown is drawn as if the known part had been noise. Resampling (:mod:`.travel`) heals that.

``follow`` puts the states of a stored trajectory there instead, which is what editing by inversion
does (DiffEdit, Couairon et al. 2210.11427, section 3.2; direct inversion, Ju et al. 2310.01506).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jaxdiff.arrays import check, expand
from jaxdiff.sampling.sample import Trajectory
from jaxdiff.typing import Array, Key


def own_noise(key: Key | None, y: Array, name: str) -> Array:
    """Return standard normal noise of the shape of states, each sample's of its own key.

    Raises ValueError, naming the correction, without keys.
    """
    if key is None:
        raise ValueError(f"{name} draws noise: give the solve a key=")
    return jax.vmap(lambda k: jax.random.normal(k, y.shape[1:], y.dtype))(key)


def check_mask(mask: ArrayLike) -> Array:
    """Return a mask as floating numbers. Raises ValueError for numbers outside [0, 1]."""
    check("a mask has values from 0 to 1", lambda m: ((m >= 0) & (m <= 1)).all(), mask)
    mask = jnp.asarray(mask)
    return mask if jnp.issubdtype(mask.dtype, jnp.floating) else mask.astype(jnp.float32)


def rows_like(x: Array, y: Array, name: str, *, ones: bool = False) -> Array:
    """Return an array of one sample, (*shape), or of every row, (batch, *shape), to stand beside
    states. Raises ValueError, naming it, for another shape: with ``ones`` an axis of 1 stands for
    any length, which of noise would be the same number at every place.
    """
    x = x.astype(y.dtype)
    x = x[None] if x.ndim == y.ndim - 1 else x
    lengths = zip(x.shape[1:], y.shape[1:], strict=False)
    fits = x.ndim == y.ndim and x.shape[0] in (1, y.shape[0])
    if not fits or any(a != b and not (ones and a == 1) for a, b in lengths):
        raise ValueError(f"{name} of shape {x.shape} does not go with states {y.shape}")
    return x


def _noise_like(noise: Array, y: Array) -> Array:
    """Return noise given for states. Raises ValueError unless each has its own."""
    if noise.shape != y.shape:
        raise ValueError(f"noise of shape {noise.shape} for states {y.shape}: each has its own")
    return noise.astype(y.dtype)


def replaced(y: Array, level: Array, noise: Array, known: Array, mask: Array) -> Array:
    """Return m (known + level noise) + (1 - m) y; all of the shape of ``y``, or broadcast to it."""
    return mask * (known + expand(level, y) * noise) + (1 - mask) * y


def replacement(known: ArrayLike, mask: ArrayLike, noise: ArrayLike | None = None) -> Partial:
    """Return the correction that keeps the known part of samples (arXiv 2011.13456, appendix I.2).

    Args:
        known: (*shape) of all samples, or (batch, *shape).
        mask: 1 where ``known`` is known, 0 where it is not, or between; of the shape of ``known``,
            with axes of 1 where it is the same.
        noise: (batch, *shape), the same at every level, as published inpainting pipelines of latent
            diffusion have it; without, it is drawn anew for every state, of the solve's ``key``.

    Raises:
        ValueError: for a mask with values outside [0, 1], or what is known not being finite, even
            where the mask is 0; when called, for shapes that do not fit, or without a key.
    """
    check("known must be finite: 0 where it is not known", lambda x: np.isfinite(x).all(), known)
    own = None if noise is None else jnp.asarray(noise)
    return Partial(_replacement, jnp.asarray(known), check_mask(mask), own)


def _replacement(
    known: Array, mask: Array, noise: Array | None, y: Array, level: Array, key: Key | None
) -> Array:
    own = own_noise(key, y, "replacement") if noise is None else _noise_like(noise, y)
    known, mask = rows_like(known, y, "known"), rows_like(mask, y, "a mask", ones=True)
    return replaced(y, level, own, known, mask)


def follow(trajectory: Trajectory, mask: ArrayLike) -> Partial:
    """Return the correction that puts a trajectory's states where the mask is 1.

    At a level that the trajectory does not have, its state of the nearest level counts.

    Args:
        trajectory: of :func:`jaxdiff.trajectory`, of the same batch, usually an inversion.
        mask: from 0 to 1, (*shape) or (batch, *shape), axes of 1 standing for any length. (batch,
            1, ...) of ones and zeros makes whole samples follow: direct inversion, where they are
            the source that others share attention with.

    Raises:
        ValueError: for a mask with values outside [0, 1]; when called, for another batch.
    """
    return Partial(_follow, trajectory.states, trajectory.levels, check_mask(mask))


def _follow(
    states: Array, levels: Array, mask: Array, y: Array, level: Array, key: Key | None
) -> Array:
    if states.shape[1:] != y.shape:
        raise ValueError(f"a trajectory of states {states.shape[1:]} for states {y.shape}")
    if jnp.ndim(level):
        raise ValueError("follow needs one level for all samples: a fixed grid")
    at = jnp.argmin(jnp.abs(jnp.asarray(levels, y.dtype) - level))
    mask = rows_like(mask, y, "a mask", ones=True)
    return mask * states[at].astype(y.dtype) + (1 - mask) * y
