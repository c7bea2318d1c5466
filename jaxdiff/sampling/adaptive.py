"""Adaptive solution of the probability-flow ODE, by diffrax.

In tau = -log level the ODE dy/ds = (y - D)/s becomes

    dy/dtau = D(y, e^-tau) - y,

whose right-hand side stays of the size of the data over all levels, and tau increases towards the
data: integrated in this variable, step sizes change little and solvers never run backwards in time.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.prediction import as_partial
from jaxdiff.process import check
from jaxdiff.typing import Array, Cond, Denoiser


class Adaptive(NamedTuple):
    """Outcome of an adaptive solve.

    states: (batch, *shape) at the lowest level, or denoised there.
    nfe: (batch,) int32 network evaluations spent on each sample, rejected steps included; None for
        implicit solvers, whose evaluations cannot be told from their steps. Under ``per_sample``
        the batch costs its largest.
    steps: (batch,) int32 attempted steps.
    """

    states: Array
    nfe: Array | None
    steps: Array


def adaptive(
    denoiser: Denoiser,
    start: Array,
    high: float | Array,
    low: float | Array,
    cond: Cond = None,
    *,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    solver: Any = None,
    controller: Any = None,
    first_step: float = 0.1,
    per_sample: bool = True,
    denoise: bool = False,
    max_steps: int = 4096,
    throw: bool = True,
) -> Adaptive:
    """Integrate from level ``high`` to level ``low`` with steps chosen by error control.

    Args:
        denoiser: ``D(y, level, cond)``.
        start: (batch, *shape) states at level ``high``.
        high, low: noise levels, high > low > 0.
        cond: handed to the denoiser; its leaves are batch first.
        rtol, atol: tolerances of the PID controller (diffrax's defaults for the rest), in units of
            the states.
        solver: any diffrax solver; Tsit5 by default.
        controller: a diffrax step size controller, instead of rtol and atol.
        first_step: in log level; given, so that no evaluation is spent on finding one.
        per_sample: give every sample its own steps. Results are then independent of the batch and
            of how it is sharded; it costs two to three times more than one step size for the whole
            batch, whose error norm mixes the samples.
        denoise: return D at ``low`` instead of the state (one more evaluation).
        max_steps: give up after this many.
        throw: raise when it gives up; otherwise the states reached are returned.

    Raises:
        ValueError: levels out of order, before anything is compiled.
    """
    import diffrax

    positive = lambda *levels: all(0 < float(level) < math.inf for level in levels)  # noqa: E731
    check("levels must be positive and finite", positive, high, low)
    check(
        "sampling goes down in level: need low < high", lambda a, b: float(a) < float(b), low, high
    )
    solver = diffrax.Tsit5() if solver is None else solver
    controller = diffrax.PIDController(rtol=rtol, atol=atol) if controller is None else controller
    D = as_partial(denoiser)
    begin, end = (-jnp.log(jnp.asarray(level, start.dtype)) for level in (high, low))

    def field(tau: Any, y: Any, c: Any) -> Any:
        return D(y, jnp.exp(-tau), c).astype(y.dtype) - y

    def solve(y: Array, c: Cond) -> tuple[Array, Array]:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field), solver, begin, end, first_step, y, c,
            stepsize_controller=controller, saveat=diffrax.SaveAt(t1=True),
            max_steps=max_steps, throw=throw,
        )  # fmt: skip
        assert solution.ys is not None
        return solution.ys[0], jnp.asarray(solution.stats["num_steps"], jnp.int32)

    if per_sample:
        one = lambda y, c: solve(y[None], jax.tree.map(lambda a: a[None], c))  # noqa: E731
        states, steps = jax.vmap(one)(start, cond)
        states = states[:, 0]
    else:
        states, steps = solve(start, cond)
        steps = jnp.broadcast_to(steps, start.shape[:1])
    per_step = _evaluations(solver)
    nfe = None if per_step is None else per_step[0] + per_step[1] * steps + (1 if denoise else 0)
    if denoise:
        states = D(states, jnp.exp(-end), cond)
    return Adaptive(states, nfe, steps)


def _evaluations(solver: Any) -> tuple[int, int] | None:
    """Evaluations at the start and per step of an explicit Runge-Kutta solver."""
    import diffrax

    if not isinstance(solver, diffrax.AbstractERK):
        return None
    tableau: Any = solver.tableau
    if tableau.fsal:  # the last stage is the next step's first
        return 1, tableau.num_stages - 1
    return 0, tableau.num_stages
