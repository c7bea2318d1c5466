"""Shortcut models: one network for steps of every size, each learnt from two of half the size.

In rectified-flow time, x_t = (1 - t) x0 + t eps, the average field u(x, t, d) over a step of size d
takes a state to x_{t-d} = x - d u. The steps are d = 1, 1/2, ..., 1/N. The smallest is the flow
itself, and every other one consists of two of half the size:

    u(x, t, 1/N) = E[eps - x0 | x],
    u(x, t, d)   = (u(x, t, d/2) + u(x - (d/2) u(x, t, d/2), t - d/2, d/2))/2.

Both are regressions, the second on a target network's outputs. The network is conditioned on the
level where a step ends, t - d, in place of its size; and its steps can be taken as jumps of a flow
map (:mod:`jaxdiff.solvers.gamma_sampling`), of which u = (x - g)/t.

Source: Frans et al. 2410.12557, section 3 and algorithm 1. Time runs from noise to data there; here
t = 0 is data. A level 80 or so stands for infinity, so that time ends at T = high/(1 + high) and
all times and step sizes are multiplied by T.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff.arrays import expand
from jaxdiff.denoisers import predictor
from jaxdiff.distance import squared
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.levels import grid_index
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.tables import flow_levels, jump_table
from jaxdiff.method import Method
from jaxdiff.process import RectifiedFlow
from jaxdiff.ranges import Below1, Positive, in_range
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Key

FLOW: Any = RectifiedFlow()
Field = Callable[..., Array]


def two_halves(u: Field, x: Array, t: Array, d: Array, clip: float | None = None) -> Array:
    """Return the average field of two steps of size d/2 from x at time t, each (batch,); no
    gradient.

    u: ``u(x, t, target=r)``, the average field from time t to r. clip: the largest number in it.
    """
    first = u(x, t, target=t - d / 2)
    second = u(x - expand(d / 2, x) * first, t - d / 2, target=t - d)
    both = jax.lax.stop_gradient((first + second) / 2)
    return both if clip is None else jnp.clip(both, -clip, clip)


def draw_step(key: Key, x0: Array, count: int) -> tuple[Array, Array]:
    """Draw a step of size d = 1, 1/2, ..., 2/count and where it starts, t, a multiple of d in
    (0, 1]: (batch,) each.
    """
    key_d, key_t = jax.random.split(key)
    sizes = jnp.asarray([2.0**i for i in range(count.bit_length() - 1)], x0.dtype)
    size = sizes[grid_index(key_d, x0, len(sizes)).astype(jnp.int32)]
    return (1.0 + grid_index(key_t, x0, size)) / size, 1.0 / size


def flow_tables(student: Student, count: int) -> Callable[..., Table]:
    """``tables(num_steps)``: jumps of equal size in rectified-flow time, a power of 2 up to
    ``count``.
    """

    def tables(num_steps: int) -> Table:
        if num_steps < 1 or num_steps & (num_steps - 1) or num_steps > count:
            raise ValueError(
                f"a shortcut model samples in a power of 2 of steps, up to {count}, "
                f"not in {num_steps}"
            )
        return jump_table(flow_levels(student, num_steps))

    return tables


@in_range
def shortcut(
    student: Student,
    *,
    count: int = 128,
    share: float = 1 / 8,
    clip: Positive | None = 4.0,
    target: Below1 = 0.999,
) -> Method:
    """Shortcut model (Frans et al., arXiv 2410.12557, algorithm 1), without a teacher.

    Args:
        student: of two labels, level and target; prediction "edm", "eps", "x0" or "flow". AdamW
            with learning rate 1e-4 and weight decay 0.1 by default. Starts from anything; the paper
            trains from scratch.
        count: number N of the smallest steps, a power of 2. Sample with powers of 2 up to it.
        share: of the batch, its first samples, that learns from two halves; the rest learns the
            flow.
        clip: the largest number in a target of two halves, for data within about [-1, 1]; None for
            none.
        target: decay of the target network.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for a count that is no power of 2 or a share outside (0, 1).

    Recipe: ImageNet 256 latents, 128 steps, an eighth of the batch bootstrapped: FID 10.6 at 1
    evaluation, 7.8 at 4, 3.8 at 128.
    Deviations: the network is conditioned on a step's end and not its size; time ends at the
    student's highest level; no guidance inside the targets; the state between two halves is not
    clipped; sizes of steps are drawn per sample, in published code each is as often in a batch, and
    labels of targets of two halves are never dropped. Fails: errors of small steps add up in the
    large ones, which learn them last; one step is much worse than the flow. Samples do not get
    better than the flow's. Cost: 1 + 2 share forward passes and one backward, hence 1.1 times score
    matching.
    """
    if count < 2 or count & (count - 1):
        raise ValueError(f"count= must be a power of 2, at least 2; got {count}")
    if not 0 < share < 1:
        raise ValueError(f"share= of the batch lies between 0 and 1; got {share}")
    whole = student.high / (1 + student.high)

    def student_loss(step: Step) -> Array:
        key_step, key_time, key_noise = jax.random.split(step.key, 3)
        first = min(max(1, round(share * len(step.x0))), len(step.x0) - 1)
        t, d = draw_step(key_step, step.x0[:first], count)
        t_flow = (1.0 + grid_index(key_time, step.x0[first:], count)) / count
        t = whole * jnp.concatenate([t, t_flow])
        d = whole * jnp.concatenate([d, jnp.full_like(t_flow, 1 / count)])
        eps = jax.random.normal(key_noise, step.x0.shape, step.x0.dtype)
        x = expand(1 - t, eps) * step.x0 + expand(t, eps) * eps
        slow = predictor(student.denoiser(step.context.ema["student"]["target"]), FLOW, "flow")
        halves = two_halves(step.own(slow, slice(first)), x[:first], t[:first], d[:first], clip)
        aim = jnp.concatenate([halves, (eps - step.x0)[first:]])
        u = step.own(predictor(student.denoiser(step.params), FLOW, "flow"))
        return squared(u(x, t, target=t - d), aim)

    return regression(
        student, student_loss, flow_tables(student, count), optimiser=optax.adamw(1e-4,
        weight_decay=0.1), target=lambda n: jnp.asarray(target, float),
    )  # fmt: skip
