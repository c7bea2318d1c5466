r"""FlowEdit (Kulikov et al. 2024, arXiv 2412.08629): from source to target without a latent.

In the rectified flow x_t = (1 - t) x0 + t n, with the source's own state z = (1 - t) x + t n drawn
anew in every step, the edit e follows the difference of two velocities (eq. 8, algorithm 1),

    de/dt = E_n [ v_target(e + z - x, t) - v_source(z, t) ],       v(x_t, t) = (x_t - D)/t,

D at the state x_t/(1 - t) and the level t/(1 - t) of the frame.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.denoisers import as_partial
from jaxdiff.sampling.checks import check_start
from jaxdiff.sampling.direct import execute
from jaxdiff.solvers.scalar import D, Noise, Scalar, check_levels
from jaxdiff.typing import Array, Cond, Denoiser, Key


def flow_edit(
    source: Denoiser,
    target: Denoiser,
    levels: Sequence[float] | np.ndarray | Array,
    data: Array,
    cond_source: Cond = None,
    cond_target: Cond = None,
    *,
    key: Key,
    index: Array | None = None,
    num_average: int = 1,
) -> Array:
    """Edit data from the source's distribution to the target's (arXiv 2412.08629, algorithm 1).

    Each with its own guidance: the paper's weights are 3.5 and 13.5 for Stable Diffusion 3.

    Args:
        source, target: ``D(y, level, cond)``, often one network guided by two weights.
        levels: decreasing; the first says how much is edited (the paper's n_max), the last is
            usually 0. Of the flow's time t, level t/(1 - t).
        data: (batch, *shape), float32 or float64.
        cond_source, cond_target: handed to each.
        key, index: as for :func:`jaxdiff.sample`.
        num_average: draws of n in each step, at least 1.

    Raises:
        ValueError, TypeError: for arguments that do not fit, before anything is compiled.
    """
    if num_average < 1:
        raise ValueError(f"flow_edit averages over at least one draw, not {num_average}")
    knots = check_levels(levels)
    check_start(data, index)

    def edit(D: D, e: Any, levels: Sequence[Scalar], noise: Noise) -> Iterator[Any]:
        for s, r in pairwise(levels):
            t, after = s / (1 + s), r / (1 + r)
            slope = 0.0
            for _ in range(num_average):
                z: Any = (1 - t) * data + t * noise()  # type: ignore[operator]
                states = jnp.stack([z, e + z - data], axis=1)
                pair: Any = D(states / (1 - t), s)
                slopes = (states - pair) / t
                slope = slope + (slopes[:, 1] - slopes[:, 0]) / num_average
            e = e + (after - t) * slope
            yield e

    both = Partial(_pair, as_partial(source), as_partial(target))
    conds = (cond_source, cond_target)
    return execute(both, edit, knots, data, conds, key, index, None, {})


def _pair(source: Partial, target: Partial, y: Array, level: Array, cond: Cond) -> Array:
    """Both outputs at states (batch, 2, *shape), the source's first."""
    outputs = source(y[:, 0], level, cond[0]), target(y[:, 1], level, cond[1])
    return jnp.stack(outputs, axis=1)
