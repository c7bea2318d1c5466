r"""SDEdit (Meng et al. 2021, arXiv 2108.01073): a picture with noise, denoised from there.

    y = guide + s_0 n,       then any sampler from level s_0,

small s_0 keeping more of the guide. The same is image to image in published pipelines, whose
``strength`` is the share of a grid's steps that is run.
"""

import numpy as np
from jax import numpy as jnp
from jax.typing import ArrayLike

from jaxdiff.arrays import check, expand
from jaxdiff.grids import from_list
from jaxdiff.noise import index_of, start_noise
from jaxdiff.typing import Array, Key


def noised(data: Array, level: ArrayLike, key: Key, index: Array | None = None) -> Array:
    """Return data + level * noise, the start of SDEdit (arXiv 2108.01073, algorithm 1).

    Args:
        data: (batch, *shape).
        level: of the first state of the table or solver, positive; a number, or (batch,).
        key: typed key. index: (batch,) integers naming the samples; 0, 1, ... by default.

    Raises ValueError for a level that is not positive, TypeError for data that are not floating.
    """
    if not jnp.issubdtype(data.dtype, jnp.floating):
        raise TypeError(f"data get noise as floating numbers, not {data.dtype}: data.astype(float)")
    check("data get noise of a positive level", lambda s: (s > 0).all(), level)
    own = start_noise(key, index_of(data, index), data.shape[1:], data.dtype)
    return data + expand(level, data) * own


def last_steps(levels: ArrayLike, strength: float) -> np.ndarray:
    """Return the end of a grid, the share ``strength`` of its steps, rounded down.

    Raises ValueError for levels that are no grid, and a strength that is not in (0, 1], or leaves
    no step.

    >>> last_steps([4.0, 3.0, 2.0, 1.0, 0.0], 0.5).tolist()
    [2.0, 1.0, 0.0]
    """
    grid = from_list(np.asarray(levels))
    num_steps = len(grid) - 1
    # 50 steps times 0.58 is 28.999999999999996 in floating numbers, and means 29
    count = int(num_steps * strength + 1e-6) if 0 < strength <= 1 else 0
    if count < 1:
        raise ValueError(
            f"a strength is in (0, 1], and leaves one of {num_steps} steps or more: {strength}"
        )
    return grid[num_steps - count :]


def difference_size(a: Array, b: Array, places: tuple[int, ...]) -> Array:
    """Return |a - b|, averaged over the axes that are no places, which stay with length 1."""
    others = tuple(i for i in range(1, a.ndim) if i not in places)
    return jnp.abs(a - b).mean(axis=others, keepdims=True)
