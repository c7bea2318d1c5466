r"""DiffEdit's mask (Couairon et al. 2022, arXiv 2210.11427, section 3.2): where an edit changes it.

At one level of noise the places where the two conditions' outputs differ are those to be edited,

    d = mean over n of |D(x + s n, c) - D(x + s n, c')|,    mask = min(d, 3 mean d)/(3 mean d) > 1/2

(outliers cut off at three times a picture's own mean). The edit then is masked sampling against the
inversion's own states:

    mask = difference_mask(D, x, level, new, old, key=key)
    up = jd.trajectory(D, inverse_table(solvers.euler, levels), x, old)
    jd.sample(D, jd.table(solvers.euler, levels), up.states[-1], new, correct=follow(up, 1 - mask))
"""

import functools

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import check, check_cond, expand
from jaxdiff.conditioning.editing.start import difference_size
from jaxdiff.denoisers import as_partial
from jaxdiff.noise import draw, sample_keys
from jaxdiff.sampling.checks import as_states, check_start, check_typed
from jaxdiff.typing import Array, Cond, Denoiser, Key


def difference_mask(
    denoiser: Denoiser,
    data: Array,
    level: float | Array,
    cond: Cond,
    other: Cond = None,
    *,
    key: Key,
    index: Array | None = None,
    num_draws: int = 10,
    threshold: float = 0.5,
    axes: tuple[int, ...] = (1, 2),
) -> Array:
    """Return where two conditions differ, ones and zeros (batch, *shape), axes that are no places
    with length 1. NaN for a sample whose outputs are not numbers.

    Args:
        denoiser: conditional ``D(y, level, cond)``.
        data: (batch, *shape). level: positive, a number or (batch,); the paper has half of the
            process's time.
        cond, other: of the edit, and of the data (None for no condition).
        key, index: as for :func:`jaxdiff.sample`.
        num_draws: of noise, at least 1. threshold: in (0, 1).
        axes: of the data, that are places.

    Raises:
        ValueError: for numbers outside of these ranges, or axes that data do not have.
    """
    check("the level must be positive", lambda s: (s > 0).all(), level)
    check("the threshold must be in (0, 1)", lambda v: 0 < v < 1, threshold)
    if num_draws < 1 or any(not 0 < a < data.ndim for a in axes):
        raise ValueError(
            f"there must be draws, not {num_draws}, and places among the axes of {data.shape} "
            f"after the first, not {axes}"
        )
    check_start(data, index)
    check_typed(key)
    for c in (cond, other):
        check_cond(c, data.shape[0])
    keys, s = sample_keys(key, data, index), jnp.asarray(level, data.dtype)
    d = _difference(as_partial(denoiser), data, s, cond, other, keys, num_draws, tuple(axes))
    most = 3 * d.mean(axis=tuple(range(1, d.ndim)), keepdims=True)
    mask = (jnp.minimum(d, most) > threshold * most).astype(data.dtype)
    return jnp.where(jnp.isnan(most), jnp.nan, mask)  # of a class that there is not


@functools.partial(jax.jit, static_argnums=(6, 7))
def _difference(
    D: Partial, data: Array, s: Array, cond: Cond, other: Cond, keys: Key, count: int,
    axes: tuple[int, ...],
) -> Array:  # fmt: skip
    def one(i: Array) -> Array:
        y = data + expand(s, data) * draw(keys, i, 0, data.shape[1:], data.dtype)
        own, changed = (as_states(D(y, s, c), y) for c in (cond, other))
        return difference_size(own, changed, axes)

    return jax.lax.map(one, jnp.arange(count)).mean(0)
