"""Adaptive solution of the probability-flow ODE, by diffrax.

In tau = -log level the ODE dy/ds = (y - D)/s becomes

    dy/dtau = D(y, e^-tau) - y,

whose right-hand side stays of the size of the data over all levels, and tau increases towards the
data: integrated in this variable, step sizes change little and solvers never run backwards in time.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxdiff.arrays import one_by_one
from jaxdiff.denoisers import as_partial
from jaxdiff.sampling.adaptive.intervals import Request, integrate
from jaxdiff.sampling.adaptive.outcome import Adaptive, check_range, outcome
from jaxdiff.sampling.checks import check_start, warn_beyond
from jaxdiff.sampling.correction import as_correction, correction_keys
from jaxdiff.sampling.finished import check_max_steps, pid_controller
from jaxdiff.typing import Array, Cond, Correct, Denoiser, Key

if TYPE_CHECKING:
    import diffrax


def adaptive(
    denoiser: Denoiser,
    start: Array,
    high: float | Array,
    low: float | Array,
    cond: Cond = None,
    *,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    solver: "diffrax.AbstractSolver | None" = None,
    controller: "diffrax.AbstractStepSizeController | None" = None,
    first_step: float = 0.1,
    per_sample: bool = True,
    denoise: bool = False,
    correct: Correct | None = None,
    key: Key | None = None,
    index: Array | None = None,
    levels: Sequence[float] | np.ndarray | Array | None = None,
    dense: bool = False,
    adjoint: "diffrax.AbstractAdjoint | None" = None,
    max_steps: int | None = None,
    throw: bool = True,
) -> Adaptive:
    """Integrate from level ``high`` to level ``low`` with steps chosen by error control.

    Args:
        denoiser: ``D(y, level, cond)``.
        start: (batch, *shape) states at level ``high``.
        high, low: noise levels, high > low > 0.
        cond: handed to the denoiser; its leaves are batch first, or one number for all.
        rtol, atol: tolerances of the PID controller (diffrax's defaults for the rest), in units of
            the states.
        solver: any diffrax solver; Tsit5 by default.
        controller: a diffrax step size controller, instead of rtol and atol.
        first_step: in log level; given, so that no evaluation is spent on finding one.
        per_sample: give every sample its own steps. Results are then independent of the batch and
            of how it is sharded; it costs two to three times more than one step size for the whole
            batch, whose error norm mixes the samples.
        denoise: return D at ``low`` instead of the state (one more evaluation).
        correct: ``correct(y, level, key) -> y``, applied at each of ``levels`` and at ``low``
            (:mod:`jaxdiff.sampling.correction`), and to what ``denoise`` returns, at level 0. The
            ODE is then solved from one level to the next, with new steps (``max_steps`` for each,
            ``first_step`` again) from each corrected state.
        key, index: typed key and numbers of the samples, for ``correct``.
        levels: (n,) decreasing levels within [low, high] whose states to return as ``saved``,
            interpolated within the steps at no cost in evaluations.
        dense: keep the whole solution, as ``path``. It takes memory for ``max_steps`` steps.
        adjoint: a diffrax adjoint. By default ``RecursiveCheckpointAdjoint``: first derivatives in
            reverse mode (``jax.grad``). ``diffrax.ForwardMode()`` has ``jax.jvp`` instead. Steps
            are held fixed in differentiation. For second derivatives use a fixed grid.
        max_steps: give up after this many; 4096 by default, 256 with ``dense``.
        throw: raise if a sample did not reach ``low``; otherwise look at ``finished``. A sample
            that meets NaN ends at once, unless a ``controller`` of one's own goes on.

    Returns:
        The states at ``low``, (batch, *shape), with evaluations, steps and whether each sample
        finished: an :class:`jaxdiff.sampling.adaptive.outcome.Adaptive`.

    Raises:
        ValueError: levels out of order, no samples or no steps, before anything is compiled.
        RuntimeError: samples that did not finish, with ``throw``, saying which and why.
    """
    import diffrax

    check_range(high, low)
    check_start(start, None, high)
    warn_beyond(denoiser, high)
    check_max_steps(max_steps)
    most = max_steps if max_steps is not None else (256 if dense else 4096)
    solver = diffrax.Tsit5() if solver is None else solver
    pace = pid_controller(solver, rtol=rtol, atol=atol) if controller is None else controller
    D, counts = as_partial(denoiser), evaluations(solver)
    keys = correction_keys("adaptive", correct, key, start, index)
    run = functools.partial(
        diffrax.diffeqsolve, diffrax.ODETerm(flow_field), solver, dt0=first_step,
        stepsize_controller=pace, max_steps=most, throw=False,
        adjoint=diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
    )  # fmt: skip
    cond = one_by_one(D, start, cond, "adaptive", ", or per_sample=False") if per_sample else cond

    def solve(y: Array, begin: Array, end: Array, save: "diffrax.SaveAt") -> Adaptive:
        def lone(y: Array, c: Cond) -> Any:
            given = {"t0": begin, "t1": end, "y0": y, "args": (D, c), "saveat": save}
            if counts is None or counts[0] == 0:
                return run(**given)
            # given the first stage, diffrax does not make it again when the first step is rejected
            return run(**given, solver_state=(jnp.array(False), flow_field(begin, y, (D, c))))

        each = lambda y, c: lone(y[None], jax.tree.map(lambda a: a[None], c))  # noqa: E731
        solution = jax.vmap(each)(y, cond) if per_sample else lone(y, cond)
        return outcome(solution, counts, y.shape[0], begin, end, per_sample)

    request = Request(high, low, levels, dense, denoise, most, throw)
    return integrate(solve, start, request, D, cond, as_correction(correct), keys)


def flow_field(tau: PyTree, y: PyTree, args: PyTree) -> Any:
    """Return dy/dtau = D - y for args (D, cond)."""
    D, cond = args
    return D(y, jnp.exp(-tau), cond).astype(y.dtype) - y


def evaluations(solver: "diffrax.AbstractSolver") -> tuple[int, int] | None:
    """Evaluations at the start and per step of an explicit Runge-Kutta solver."""
    import diffrax

    if not isinstance(solver, diffrax.AbstractERK):
        return None
    tableau: Any = solver.tableau
    if tableau.fsal:  # the last stage is the next step's first
        return 1, tableau.num_stages - 1
    return 0, tableau.num_stages
