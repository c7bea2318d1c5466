"""A network that decodes a whole trajectory from its start, learnt from stored trajectories.

From the state y at level S come M states at lower levels s_1 > ... > s_M in one evaluation, mixed
along the trajectory inside the network (:mod:`jaxdiff.networks.temporal`). In the frame of jumps

    G(y, S -> s_i) = (s_i/S) y + (1 - s_i/S) g_i(y, S),
    L = E sum_i w_i d( a_i G(y, S -> s_i), a_i y_i )/M,     w_i = clip(1/s_i, 1, cap),

with y_i the teacher's states and a_i = (1 + s_i^2)^(-1/2), which makes them x_i of a
variance-preserving process, where the paper takes its distance; 1/s_i = e^lambda.

A denoiser of such a network works on (batch, M, *shape), the state repeated M times, with the
labels of the M levels as ``extra``; of :func:`flow_map` it is a two-time map, for jumps.

Source: Zheng et al. 2211.13449, section 3 and appendix (DSNO).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff import solvers
from jaxdiff.distance import Distance, absolute
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.student import Student
from jaxdiff.method import Method
from jaxdiff.ranges import Positive, in_range
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array, Cond


def point_labels(levels: Array, low: float) -> Array:
    """Return the condition for the levels it decodes: log(level)/4, (M,); ``low`` stands
    for 0.
    """
    return jnp.log(jnp.maximum(levels, low)) / 4


def decode(D: Callable[..., Array], levels: Array, low: float, y: Array, s: Array) -> Array:
    """Return g_i(y, s) for y (batch, *shape), s (batch,) and levels (M,): (batch, M, *shape)."""
    labels = jnp.broadcast_to(point_labels(levels, low)[None], (y.shape[0], len(levels)))
    return D(jnp.repeat(y[:, None], len(levels), axis=1), s, extra=labels)


def operator_loss(
    g: Array,
    y: Array,
    s: Array,
    points: Array,
    levels: Array,
    distance: Distance = absolute,
    cap: float = 1e4,
) -> Array:
    """Return the loss per sample, (batch,).

    g: (batch, M, *shape), decoded from y (batch, *shape) at levels s (batch,). points: (batch, M,
    *shape), the teacher's states at ``levels`` (M,). Points not below s do not count.
    """
    lower = levels.reshape(1, -1) < s.reshape(-1, 1)
    ratio = jnp.where(lower, levels.reshape(1, -1) / s.reshape(-1, 1), 0.0)
    ratio = ratio.reshape(*ratio.shape, *(1,) * (y.ndim - 1))
    reached = ratio * y[:, None] + (1.0 - ratio) * g
    scale = (1.0 / jnp.sqrt(1.0 + levels**2)).reshape(1, -1, *(1,) * (y.ndim - 1))
    flat = [(scale * a).reshape(-1, *y.shape[1:]) for a in (reached, points)]
    each = distance(*flat).reshape(lower.shape)
    weight = jnp.clip(1.0 / jnp.maximum(levels, 1.0 / cap), 1.0, cap).reshape(1, -1)
    return jnp.sum(jnp.where(lower, weight * each, 0.0), axis=1) / jnp.sum(
        lower, axis=1, dtype=y.dtype
    )


def flow_map(D: Any, levels: Sequence[float], low: float) -> jax.tree_util.Partial:
    """Return the two-time map ``D(y, s, cond, target=r)`` of a denoiser of trajectories: the output
    for the level nearest to r; the last without a target.
    """
    return jax.tree_util.Partial(nearest, D, jnp.asarray(levels, jnp.float32), low)


def nearest(
    D: Any, levels: Array, low: float, y: Array, s: Array, cond: Cond = None, *, target: Any = None
) -> Array:
    """Return what :func:`flow_map` calls."""
    levels = levels.astype(y.dtype)
    s = jnp.broadcast_to(jnp.asarray(s, y.dtype), y.shape[:1])
    points = decode(lambda y, s, extra: D(y, s, cond, extra=extra), levels, low, y, s)
    if target is None:
        return points[:, -1]
    target = jnp.broadcast_to(jnp.asarray(target, y.dtype), y.shape[:1])
    index = jnp.argmin(jnp.abs(levels[None] - target[:, None]), axis=1)
    return jnp.take_along_axis(points, index.reshape(-1, *(1,) * y.ndim), axis=1)[:, 0]


@in_range
def trajectory_operator(
    student: Student,
    levels: Sequence[float],
    *,
    keep: Sequence[int] = (4, 8, 12, 16),
    starts: int = 1,
    distance: Distance = absolute,
    cap: Positive = 1e4,
) -> Method:
    """Diffusion model sampling with a neural operator, DSNO (Zheng et al., arXiv 2211.13449).

    Data are stored trajectories: ``pair_batches(make_pairs(teacher, ..., path=True), batch)``.

    Args:
        student: its network takes x (batch, M, *shape) and labels (batch, 1 + M), one level and M
            points (:func:`jaxdiff.networks.temporal.temporal`; the paper has 2 Fourier modes of the
            trajectory). Adam with learning rate 2e-4 by default; the paper's is warmed up over
            10,000 updates and cut at 100, 200 and 300 thousand of 400, with batches of 256, dropout
            0.2 and an average at 0.9999.
        levels: of the stored states, the start's first. (The paper stores 17 states of 512 DDIM
            steps, quadratic in time.)
        keep: which of them are decoded, ascending; the last must be the end.
        starts: how many of the start and the points decoded are starts: 1 is the paper's. With
            more, a sampler can take up to so many steps.
        distance: of states of variance about 1; the paper prefers features of a VGG network to the
            L1 distance here.
        cap: of the weight of a point, 1/level.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for levels that do not decrease, and for ``keep`` or ``starts`` out of range.

    Deviations: points are jumps from the start, of which the network gives the denoised output.
    With ``starts`` above 1 the states given are the teacher's at the start and at all kept levels
    but the last.
    Fails: as a regression on stored pairs it overfits few of them and its samples are a little
    soft; the pairs cost a teacher's solve each.
    Cost: M forward and backward passes of the network on every sample; no teacher in training.
    """
    levels, keep = [float(s) for s in levels], list(keep)
    _check(levels, keep, starts)
    decoded = [levels[i] for i in keep]
    first = [0, *keep[:-1]][:starts]

    def student_loss(step: Step) -> Array:
        path = step.batch["path"]
        if path.shape[1] != len(levels):
            raise ValueError(f"paths have {path.shape[1]} states, but levels= {len(levels)} levels")
        which = jax.random.randint(step.key, path.shape[:1], 0, starts)
        start = jnp.asarray(first, jnp.int32)[which].reshape(-1, *(1,) * (path.ndim - 1))
        y = jnp.take_along_axis(path, start, axis=1)[:, 0]
        s = jnp.asarray([levels[i] for i in first], path.dtype)[which]
        lower = jnp.asarray(decoded, path.dtype)
        g = decode(step.student, lower, student.low, y, s)
        points = jnp.stack([path[:, i] for i in keep], axis=1)
        return operator_loss(g, y, s, points, lower, distance, cap)

    def tables(num_steps: int) -> Table:
        if not 1 <= num_steps <= starts:
            raise ValueError(
                f"learnt from {starts} starting levels, it is sampled in 1 to {starts} steps; got "
                f"num_steps={num_steps}"
            )
        inner = [levels[i] for i in first[1:]]
        chosen = [inner[(j * starts) // num_steps - 1] for j in range(1, num_steps)]
        return table(solvers.jump, [levels[0], *chosen, decoded[-1]])

    method = regression(student, student_loss, tables, optimiser=optax.adam(2e-4))

    def sampler(state: Any, **options: Any) -> Sampler:
        made = method.sampler(state, **options)
        return made._replace(denoiser=flow_map(made.denoiser, decoded, student.low))

    return method._replace(sampler=sampler)


def _check(levels: list[float], keep: list[int], starts: int) -> None:
    if any(s <= r for s, r in zip(levels, levels[1:], strict=False)):
        raise ValueError(f"levels must decrease; got {levels}")
    if not keep or sorted(set(keep)) != keep or keep[0] < 1 or keep[-1] != len(levels) - 1:
        raise ValueError(
            f"keep= numbers states from 1, ascending, the last {len(levels) - 1}; got {keep}"
        )
    if not 1 <= starts <= len(keep):
        raise ValueError(f"starts= must be 1 to {len(keep)}, the number of points; got {starts}")
