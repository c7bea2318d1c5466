"""Latent consistency models: guidance is distilled together with the sampler.

Consistency distillation whose teacher is guided with a weight w drawn anew for every sample, and
whose student is conditioned on w,

    y_r = solver step of D_w from y_t,     D_w = D(., none) + w (D(., class) - D(., none)),
    E d( f(y_t, t, w), sg f_target(y_r, r, w) ),

with t and r not neighbours but ``skip`` levels apart on a grid of many, which is what makes it
quick to learn. The weight 1 is the plain conditional model; the paper's own w is ours less 1. Its
step, DDIM, is Euler's here.

The boundary condition f(y, lowest) = y is that of :func:`jaxdiff.prediction.boundary_scalings` for
a student of prediction "edm"; another network keeps its own with
:func:`jaxdiff.denoisers.latent_consistency` as ``boundary``.

Source: Luo et al., arXiv 2310.04378, section 4.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jaxdiff import grids, solvers
from jaxdiff.conditioning.guidance import classifier_free
from jaxdiff.denoisers import conditioned
from jaxdiff.distance import Distance, pseudo_huber
from jaxdiff.distill.consistency.consistency import Pair, consistency_loss
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.guidance_weights import check_guidance_weight, with_range
from jaxdiff.distill.parts.levels import grid_index
from jaxdiff.distill.parts.primitives import perturb
from jaxdiff.distill.parts.student import Student, trained
from jaxdiff.distill.parts.teacher import SolverStep, advance
from jaxdiff.method import Decay, Method
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.steps import euler_step
from jaxdiff.typing import Array, Denoiser, Key

Boundary = Callable[[Denoiser], Partial]


def skipping_levels(key: Key, x0: Array, levels: ArrayLike, skip: int) -> tuple[Array, Array]:
    """Return levels t > r per sample of ``x0``, ``skip`` entries apart on a decreasing grid of
    levels.
    """
    grid = jnp.asarray(levels, x0.dtype)
    index = grid_index(key, x0, grid.shape[0] - skip).astype(jnp.int32)
    return grid[index], grid[index + skip]


def latent_consistency(
    teacher: Denoiser,
    student: Student,
    *,
    levels: ArrayLike | None = None,
    skip: int = 20,
    guidance_range: tuple[float, float] = (3.0, 15.0),
    distance: Distance | None = None,
    solver_step: SolverStep = euler_step,
    target: Decay | None = lambda step: jnp.asarray(0.95, jnp.float32),
    boundary: Boundary | None = None,
) -> Method:
    """Latent consistency distillation (Luo et al., arXiv 2310.04378, algorithm 1).

    The sampler takes ``guidance``, by default the middle of the range, and steps through the grid
    at equal distances. Cost: two network calls per update, one of them with gradient, and two of
    the teacher. Failure modes: samples are too smooth, more so with a large skip, whose Euler step
    is the accuracy that is distilled; weights outside the range that was trained. Recipe: AdamW at
    1e-4, batches of 16 per GPU, a target network at 0.95. Deviations: the grid is Karras's unless
    given (the paper: every twentieth of a thousand DDIM steps); the network is conditioned on w by
    its own embedding.

    Args:
        teacher: ``D(y, level, cond)`` that answers cond=None unconditionally, frozen. Without
            classes guidance is without effect.
        student: takes one label more, w divided by the largest weight. AdamW at 1e-4 by default.
        levels: decreasing grid, by default Karras's with 1000 levels between the student's; for a
            latent diffusion model ``process.level(model's process, times)``.
        skip: k, number of grid steps between t and r.
        guidance_range: range of the uniform w (the paper's 2 to 14, in our convention).
        distance: pseudo-Huber with c = 0.001 by default.
        solver_step: the teacher's solver step, Euler's (DDIM) by default.
        target: decay of the target network.
        boundary: makes the consistency function of the student's denoiser, where EDM's is not
            wanted: ``lambda D: denoisers.latent_consistency(D, process)``.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.
    """
    low, high = guidance_range
    grid = np.asarray(
        grids.karras(999, student.low, student.high, zero=False) if levels is None else levels
    )
    if not (1 <= skip < len(grid) and (np.diff(grid) < 0).all()):
        raise ValueError(f"a decreasing grid of more than skip = {skip} levels is needed")
    if not low <= high:
        raise ValueError(f"guidance_range is (low, high), not {guidance_range}")
    smallest = 0.0 if boundary else float(grid[-1])
    agree, wrap = distance or pseudo_huber(1e-3), boundary or (lambda D: D)

    def student_loss(step: Step) -> Array:
        key_level, key_noise, key_weight = jax.random.split(step.key, 3)
        t, r = skipping_levels(key_level, step.x0, grid, skip)
        shape, dtype = step.x0.shape, step.x0.dtype
        weight = jax.random.uniform(key_weight, shape[:1], dtype, low, high)
        y_t = perturb(step.x0, t, jax.random.normal(key_noise, shape, dtype))
        guided = classifier_free(step.context.frozen["teacher"], weight, student.null)
        y_r = advance(lambda y, s: guided(y, s, step.cond), y_t, t, r, solver_step)
        f, slow = (
            wrap(lambda y, s, cond=None, D=D: D(y, s, extra=weight / high))
            for D in (step.student, step.target)
        )
        return consistency_loss(f, slow, Pair(y_t, t, y_r, r), agree, jnp.ones_like(t))

    def tables(num_steps: int, levels: Sequence[float] | None = None) -> Table:
        ends = _spread(grid, num_steps) if levels is None else levels
        return table(solvers.consistency, ends, smallest=smallest)

    method = regression(
        student, student_loss, tables, optimiser=optax.adamw(1e-4), teacher=teacher, target=target,
        sigma_min=smallest,
    )  # fmt: skip

    def sampler(
        state: Any,
        num_steps: int = 1,
        ema: str | None = None,
        guidance: float | None = None,
        **options: Any,
    ) -> Sampler:
        w = 0.5 * (low + high) if guidance is None else guidance
        check_guidance_weight(w, low, high)
        D = conditioned(trained(student, state, ema, smallest), extra=w / high)
        return Sampler(wrap(D), tables(num_steps, **options))

    return method._replace(sampler=with_range(sampler, low, high))


def _spread(grid: np.ndarray, num_steps: int) -> list[float]:
    if not 1 <= num_steps < len(grid):
        raise ValueError(f"a sampler on {len(grid)} levels has at least 1 step, not {num_steps}")
    index = np.linspace(0, len(grid), num_steps, endpoint=False).astype(int)
    return [*grid[index].tolist(), 0.0]
