r"""The denoising trajectory r_n = D(x_n, s_n) beside the sampling trajectory x_n.

Along the probability flow x' = (x - r)/s, and therefore

    r' = -s x'',

so that the denoising trajectory moves where the sampling trajectory bends. It is shorter, and
nearer to the end of both, x_0 = r_0: a sampler may stop at any state and return r_n (ODE jump, the
denoised output of a last step).

Sources: Chen et al., A geometric perspective on diffusion models, arXiv 2305.19947, sections 3
(denoising trajectory, ODE jump) and 4; Chen et al., On the trajectory regularity of ODE-based
diffusion sampling, arXiv 2405.11326, section 3 (r' = -s x''). That a last evaluation returns the
denoised output is older: Jolicoeur-Martineau et al., arXiv 2009.05475.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Float

from jaxdiff.analysis.points import positive_level, same_shape, states_of, vectors
from jaxdiff.arrays import check_cond, expand
from jaxdiff.brief import short
from jaxdiff.denoisers import as_partial
from jaxdiff.distance import norm
from jaxdiff.sampling.checks import check_start
from jaxdiff.sampling.run import evaluate
from jaxdiff.sampling.sample import Trajectory, trajectory
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Cond, Denoiser, Key, PerSample, States

Field = Callable[[Array, Array], Array]  # of states and their levels
Metric = Callable[[Array, Array], Any]  # of two batches: a number for each sample, or for all
Score = Callable[[Array], Any]  # of a batch of samples: a number, or one for each sample


class Convergence(NamedTuple):
    """How far the points of two trajectories are from their ends.

    states: metric(x_n, x_0), (points, batch) or (points,). denoised: metric(r_n, r_0), likewise.
    """

    __repr__ = short

    states: Array
    denoised: Array


class JumpCurve(NamedTuple):
    """Quality of a sampler that is stopped early.

    levels: (A + 1,), of the start and the accepted states. nfe: (A + 1,) evaluations made when the
    state is returned; the denoised output of a state above level 0 costs one more. states: the
    score of x_n, (A + 1, ...). denoised: the score of D(x_n), likewise.
    """

    __repr__ = short

    levels: np.ndarray
    nfe: np.ndarray
    states: np.ndarray
    denoised: np.ndarray


def denoising_trajectory(
    denoiser: Denoiser, path: Trajectory, cond: Cond = None
) -> Float[Array, "points batch *shape"]:
    """Return the denoised output at every state of a trajectory.

    The outputs in ``path.denoised`` are those that the solver took, of states within its steps too,
    and not of its last state; these are one for each accepted state. Costs an evaluation for each.

    Args:
        denoiser: ``D(y, level, cond)``, the sampler's own or another.
        path: of :func:`jaxdiff.trajectory`.
        cond: handed to the denoiser.

    Returns:
        (A + 1, batch, *shape), of the dtype of the states; at level 0 the state itself.

    Raises:
        ValueError, TypeError: for a trajectory of other shapes, and as
            :func:`jaxdiff.sample` for what does not go with the denoiser.

    Source: Chen et al., arXiv 2305.19947, section 3.
    """
    states, levels = states_of(path)
    check_cond(cond, states.shape[1])
    return denoise_all(as_partial(denoiser), states, levels, cond)


@jax.jit
def denoise_all(D: Partial, states: Array, levels: Array, cond: Cond) -> Array:
    """Return D(x_n, s_n) of all states (points, batch, *shape), one after another."""

    def one(pair: tuple[Array, Array]) -> Array:
        y, level = pair
        positive = jnp.where(level > 0, level, 1)  # no answer of a network at level 0 is used
        return jnp.where(level > 0, evaluate(D, y, positive, None, cond), y)

    return lax.map(one, (states, levels))


def convergence(
    states: Float[Array, "points batch *shape"],
    denoised: Float[Array, "points batch *shape"],
    metric: Metric | None = None,
) -> Convergence:
    """Return how fast the sampling and the denoising trajectory arrive at their own ends.

    Args:
        states: x_n, (points, batch, *shape).
        denoised: r_n, of the same shape (:func:`denoising_trajectory`).
        metric: ``metric(a, b)`` of two batches (batch, *shape), a number per sample or one; the
            Euclidean distance by default. Those of :mod:`jaxdiff.distance` will do, or
            ``lambda a, b: frechet_distance(features(a), features(b))``.

    Returns:
        :class:`Convergence`.

    Raises:
        ValueError, TypeError: for other shapes or dtypes.

    Source: Chen et al., arXiv 2305.19947, section 3.
    """
    for name, points in (("states", states), ("denoised", denoised)):
        vectors(name, points)
    same_shape("states", states, "denoised", denoised)
    apart = (lambda a, b: norm(a - b)) if metric is None else metric
    return Convergence(
        *(jnp.stack([jnp.asarray(apart(x, p[-1])) for x in p]) for p in (states, denoised))
    )


def flow_derivatives(
    denoiser: Denoiser, y: States, level: Array | float, cond: Cond = None, *, order: int = 3
) -> tuple[States, ...]:
    """Return the derivatives x', x'', ... of the probability flow with respect to the level.

    With d/ds along the flow x' = (x - D)/s they are x'' = -(dD/ds)/s, x''' = d(x'')/ds, and so on:
    exact, each by one more directional derivative (``jax.jvp``). ``order`` of them cost
    2^(order - 1) evaluations, or a little more. In this form x'' is free of the cancellation that
    differentiating (x - D)/s has at high levels.

    Args:
        denoiser: ``D(y, level, cond)``, differentiable so often in state and level.
        y: (batch, *shape).
        level: positive, a scalar or (batch,).
        cond: handed to the denoiser.
        order: 1, 2 or 3, or more.

    Returns:
        A tuple of ``order`` arrays (batch, *shape).

    Raises:
        ValueError, TypeError: for an order below 1, a ``y`` that is no batch of states, another
            level or cond.

    Source: Chen et al., arXiv 2405.11326, section 3 (its first two).
    """
    if order < 1:
        raise ValueError(f"order must be at least 1, not {order}")
    D, s = _at(denoiser, y, level, cond)
    answer = lambda x, s: evaluate(D, x, s, None, cond)  # noqa: E731
    slope = lambda x, s: (x - answer(x, s)) / expand(s, x)  # noqa: E731

    def along(g: Field) -> Field:
        return lambda x, s: jax.jvp(g, (x, s), (slope(x, s), jnp.ones_like(s)))[1]

    functions: list[Field] = [slope, lambda x, s: -along(answer)(x, s) / expand(s, x)]
    while len(functions) < order:
        functions.append(along(functions[-1]))
    return tuple(g(y, s) for g in functions[:order])


def _at(
    denoiser: Denoiser, y: States, level: Array | float, cond: Cond
) -> tuple[Partial, PerSample]:
    """Check what derivatives are taken of; return the denoiser and each sample's level."""
    check_start(y, None)
    check_cond(cond, y.shape[0])
    return as_partial(denoiser), jnp.broadcast_to(positive_level(level, y), y.shape[:1])


def denoised_derivative(
    denoiser: Denoiser, y: States, level: Array | float, cond: Cond = None
) -> States:
    """Return r' = dD(x(s), s)/ds along the probability flow, by one ``jax.jvp``.

    It is -s x'' (:func:`flow_derivatives`), so that

        |r'|/|x'| = s |x''|/|x'|

    says how far the denoised output still moves where the state moves by one.

    Args:
        denoiser, y, level, cond: as of :func:`flow_derivatives`.

    Returns:
        (batch, *shape).

    Raises:
        ValueError, TypeError: as :func:`flow_derivatives`.

    Source: Chen et al., arXiv 2405.11326, section 3.
    """
    D, s = _at(denoiser, y, level, cond)
    (slope,) = flow_derivatives(denoiser, y, s, cond, order=1)
    answer = lambda x, s: evaluate(D, x, s, None, cond)  # noqa: E731
    return jax.jvp(answer, (y, s), (slope, jnp.ones_like(s)))[1]


def jump_curve(
    denoiser: Denoiser,
    table: Table,
    start: Array,
    score: Score,
    cond: Cond = None,
    *,
    key: Key | None = None,
    index: Array | None = None,
) -> JumpCurve:
    """Return the score of a sampler's states, and of their denoised outputs, at every level.

    Args:
        denoiser, table, start, cond, key, index: as of :func:`jaxdiff.sample`; any solver.
        score: ``score(samples)`` of a batch (batch, *shape): a number, such as a Frechet distance
            to data, or one for each sample, such as a log-likelihood.

    Returns:
        :class:`JumpCurve`.

    Raises:
        ValueError, TypeError: as :func:`jaxdiff.trajectory`.

    Source: Chen et al., arXiv 2305.19947, section 3 (ODE jump).
    """
    path = trajectory(denoiser, table, start, cond, key=key, index=index)
    outputs = denoising_trajectory(denoiser, path, cond)
    scores = [np.stack([np.asarray(score(x)) for x in p]) for p in (path.states, outputs)]
    return JumpCurve(np.asarray(table.levels, np.float64), nfe_of_states(table), *scores)


def nfe_of_states(table: Table) -> np.ndarray:
    """Return how many evaluations a table has made when it accepts each state.

    Args:
        table: any, not padded.

    Returns:
        (A + 1,) integers, 0 at the start.
    """
    return np.array([0, *(row // table.states.shape[1] for row in table.accepted)])
