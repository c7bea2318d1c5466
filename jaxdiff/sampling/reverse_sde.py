"""The reverse SDE, by diffrax: any of its solvers, fixed or adaptive steps, one Brownian path.

The marginals of y = x0 + s eps obey the probability-flow ODE dy = (D - y) dtau in tau = -log s.
With score (D - y)/s^2, Langevin dynamics dy = beta score dtau + sqrt(2 beta) dW leaves the marginal
at each level alone; added with beta = eta s^2 they give, for every eta >= 0, the same marginals by

    dy = (1 + eta) (D(y, s) - y) dtau + s sqrt(2 eta) dW,        s = e^-tau.

eta = 0 is the flow and eta = 1 the time reversal of the noising process (Anderson 1982; Song et
al., arXiv 2011.13456, eq. 6; the family is that of 2206.00364, eq. 6). The noise is additive: Ito
and Stratonovich agree, and solvers for additive noise have strong order 1.5. tau increases towards
the data, so that diffrax never integrates backwards, where its SRK solvers are wrong (diffrax issue
598).
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.prediction import as_partial
from jaxdiff.process import check
from jaxdiff.sampling.adaptive import (
    Adaptive,
    check_range,
    denoised,
    evaluations,
    outcome,
    save_at,
)
from jaxdiff.sampling.sample import check_key, check_start, sample_keys
from jaxdiff.typing import Array, Cond, Denoiser, Key


def reverse_sde(
    denoiser: Denoiser,
    start: Array,
    high: float | Array,
    low: float | Array,
    cond: Cond = None,
    *,
    key: Key,
    index: Array | None = None,
    eta: float | Array = 1.0,
    steps: int | None = None,
    rtol: float = 0.05,
    atol: float = 0.05,
    solver: Any = None,
    controller: Any = None,
    first_step: float | Array = 0.1,
    resolution: float | Array | None = None,
    denoise: bool = False,
    levels: Sequence[float] | np.ndarray | Array | None = None,
    dense: bool = False,
    adjoint: Any = None,
    max_steps: int | None = None,
    throw: bool = True,
) -> Adaptive:
    """Sample the reverse SDE from level ``high`` to level ``low``.

    Every sample has its own steps and its own Brownian path, which depends on ``key``, its index,
    the two levels, the resolution and the kind of solver: the same in any batch, and for any number
    of steps. Refined steps therefore converge to one path (strongly), and rejected ones bias
    nothing. Error control on a rough path amplifies rounding: compiled differently, a sample whose
    steps were chosen agrees with itself to the tolerance, one of a given number of steps to
    rounding.

    Args:
        denoiser: ``D(y, level, cond)``.
        start: (batch, *shape) states at level ``high``, float32 or float64.
        high, low: noise levels, high > low > 0.
        cond: handed to the denoiser; its leaves are batch first.
        key, index: typed key, and (batch,) integers naming the samples; 0, 1, ... by default.
        eta: amount of noise, >= 0.
        steps: that many steps, equal in log level; without it steps are chosen by error control.
        rtol, atol: tolerances of the PID controller, in units of the states.
        solver: a diffrax solver for additive noise; ``ShARK`` by default (two evaluations per step,
            strong order 1.5). Without ``steps`` it needs an error estimate: ShARK, SRA1, SPaRK,
            Heun and others have one.
        controller: a diffrax step size controller, instead of rtol and atol.
        first_step: in log level; with ``diffrax.ConstantStepSize()`` that of every step.
        resolution: of the Brownian path, in log level; 3/2^16 of its range by default. Steps must
            be longer; the default controller sees to that.
        denoise, levels, dense, adjoint, max_steps, throw: as for
            :func:`jaxdiff.sampling.adaptive.adaptive`. Between the ends of its steps a solution is
            interpolated linearly.

    Returns:
        States, evaluations and steps; ``nfe`` is None for a solver whose evaluations are not known.

    Raises:
        ValueError, TypeError: if the arguments do not fit together, before anything is compiled.
    """
    import diffrax

    check_range(high, low)
    check_start(start, index)
    check_key("reverse_sde", key)
    check("eta must be finite and not negative", lambda e: 0 <= float(e) < math.inf, eta)
    if steps is not None and (steps < 1 or controller is not None):
        raise ValueError(f"give either steps >= 1 or a controller; steps is {steps}")
    begin, end = (-jnp.log(jnp.asarray(level, start.dtype)) for level in (high, low))
    # not a power of two: on the edge between two depths of the tree rounding would choose the path
    finest = (end - begin) * (3 / 2**16) if resolution is None else resolution
    finest = jnp.asarray(finest, start.dtype)
    if steps is not None:
        controller = diffrax.StepTo(ts=jnp.linspace(begin, end, steps + 1, dtype=start.dtype))
    elif controller is None:
        controller = diffrax.PIDController(rtol=rtol, atol=atol, dtmin=2 * finest)
    solver = diffrax.ShARK() if solver is None else solver
    D, save = as_partial(denoiser), save_at(levels, dense, begin, end)
    widen = jnp.asarray(eta, start.dtype)

    def lone(y: Array, c: Cond, own: Key) -> Any:
        return diffrax.diffeqsolve(
            _terms(solver, y[None], own, begin, end, finest), solver, begin, end,
            None if steps is not None else first_step, y[None],
            (D, jax.tree.map(lambda a: a[None], c), widen),
            stepsize_controller=controller, saveat=save,
            adjoint=diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
            max_steps=max_steps or (256 if dense else 4096), throw=throw,
        )  # fmt: skip

    solution = jax.vmap(lone)(start, cond, sample_keys(key, start, index))
    out = outcome(solution, sde_evaluations(solver), start.shape[0], begin, end, True)
    return denoised(out, D, low, cond) if denoise else out


def _terms(solver: Any, y: Array, key: Key, begin: Array, end: Array, resolution: Array) -> Any:
    """Drift and diffusion with the Brownian path of one sample."""
    import diffrax

    shape = jax.ShapeDtypeStruct(y.shape, y.dtype)
    path = diffrax.VirtualBrownianTree(begin, end, resolution, shape, key, _levy_area(solver))
    return diffrax.MultiTerm(diffrax.ODETerm(_drift), diffrax.ControlTerm(_diffusion, path))


def _levy_area(solver: Any) -> Any:
    """Return the least of the path that the solver asks for: its increments, or integrals too."""
    import diffrax

    wanted = getattr(solver, "minimal_levy_area", diffrax.BrownianIncrement)
    kinds = diffrax.BrownianIncrement, diffrax.SpaceTimeLevyArea, diffrax.SpaceTimeTimeLevyArea
    return next(kind for kind in kinds if issubclass(kind, wanted))


def _drift(tau: Any, y: Any, args: Any) -> Any:
    D, cond, eta = args
    return (1.0 + eta) * (D(y, jnp.exp(-tau), cond).astype(y.dtype) - y)


def _diffusion(tau: Any, y: Any, args: Any) -> Any:
    import lineax

    width = jnp.exp(-tau) * jnp.sqrt(2.0 * args[2])
    return lineax.DiagonalLinearOperator(jnp.broadcast_to(width, y.shape))


def sde_evaluations(solver: Any) -> tuple[int, int] | None:
    """Evaluations of the drift at the start and per step, for solvers that are known."""
    import diffrax

    if isinstance(solver, diffrax.AbstractSRK):
        tableau: Any = solver.tableau
        ignored = 0 if tableau.ignore_stage_f is None else int(np.sum(tableau.ignore_stage_f))
        return 0, len(tableau.b_sol) - ignored
    if isinstance(solver, diffrax.Euler | diffrax.EulerHeun | diffrax.ItoMilstein):
        return 0, 1
    return evaluations(solver)
