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
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxdiff.arrays import check, one_by_one
from jaxdiff.denoisers import as_partial
from jaxdiff.noise import sample_keys
from jaxdiff.sampling.adaptive.intervals import Request, integrate
from jaxdiff.sampling.adaptive.outcome import Adaptive, check_range, outcome
from jaxdiff.sampling.adaptive.probability_flow import evaluations
from jaxdiff.sampling.checks import check_key, check_start, warn_beyond
from jaxdiff.sampling.correction import as_correction
from jaxdiff.sampling.finished import check_max_steps, pid_controller
from jaxdiff.typing import Array, Cond, Correct, Denoiser, Key

if TYPE_CHECKING:
    import diffrax


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
    num_steps: int | None = None,
    rtol: float = 0.05,
    atol: float = 0.05,
    solver: "diffrax.AbstractSolver | None" = None,
    controller: "diffrax.AbstractStepSizeController | None" = None,
    first_step: float | Array = 0.1,
    resolution: float | Array | None = None,
    denoise: bool = False,
    correct: Correct | None = None,
    levels: Sequence[float] | np.ndarray | Array | None = None,
    dense: bool = False,
    adjoint: "diffrax.AbstractAdjoint | None" = None,
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
        cond: handed to the denoiser; its leaves are batch first, or one number for all.
        key, index: typed key, and (batch,) integers naming the samples; 0, 1, ... by default.
        eta: amount of noise, >= 0.
        num_steps: that many steps, equal in log level; without it steps are chosen by error
            control.
        rtol, atol: tolerances of the PID controller, in units of the states.
        solver: a diffrax solver for additive noise; ``ShARK`` by default (two evaluations per step,
            strong order 1.5). Without ``num_steps`` it needs an error estimate: ShARK, SRA1, SPaRK,
            Heun and others have one.
        controller: a diffrax step size controller, instead of rtol and atol.
        first_step: in log level; with ``diffrax.ConstantStepSize()`` that of every step.
        resolution: of the Brownian path, in log level; 3/2^16 of its range by default. Steps must
            be longer; the default controller sees to that.
        denoise, correct, levels, dense, adjoint, max_steps, throw: as for
            :func:`jaxdiff.sampling.adaptive.probability_flow.adaptive`; under ``correct`` the
            ``num_steps`` are those from one level to the next. Between the ends of its steps a
            solution is interpolated linearly.

    Returns:
        States, evaluations and steps; ``nfe`` is None for a solver whose evaluations are not known.

    Raises:
        ValueError, TypeError: if the arguments do not fit together, before anything is compiled.
        RuntimeError: samples that did not finish, with ``throw``.
    """
    import diffrax

    check_range(high, low)
    check_start(start, index, high)
    warn_beyond(denoiser, high)
    check_key("reverse_sde", key)
    check_max_steps(max_steps)
    most = max_steps if max_steps is not None else (256 if dense else 4096)
    check("eta must be finite and not negative", lambda e: 0 <= float(e) < math.inf, eta)
    if num_steps is not None and (num_steps < 1 or controller is not None):
        raise ValueError(f"give either num_steps >= 1 or a controller; num_steps is {num_steps}")
    begin, end = (-jnp.log(jnp.asarray(level, start.dtype)) for level in (high, low))
    # not a power of two: on the edge between two depths of the tree rounding would choose the path
    finest = (end - begin) * (3 / 2**16) if resolution is None else resolution
    finest = jnp.asarray(finest, start.dtype)
    solver = diffrax.ShARK() if solver is None else solver
    if num_steps is None and controller is None:
        controller = pid_controller(solver, rtol=rtol, atol=atol, dtmin=2 * finest)
    D, widen = as_partial(denoiser), jnp.asarray(eta, start.dtype)
    keys = sample_keys(key, start, index)
    cond = one_by_one(D, start, cond, "reverse_sde")

    def solve(y: Array, t0: Array, t1: Array, save: "diffrax.SaveAt") -> Adaptive:
        own: Any = controller
        if num_steps is not None:
            own = diffrax.StepTo(ts=jnp.linspace(t0, t1, num_steps + 1, dtype=start.dtype))

        def lone(y: Array, c: Cond, key: Key) -> Any:
            return diffrax.diffeqsolve(
                _terms(solver, y[None], key, begin, end, finest), solver, t0, t1,
                None if num_steps is not None else first_step, y[None],
                (D, jax.tree.map(lambda a: a[None], c), widen),
                stepsize_controller=own, saveat=save,
                adjoint=diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
                max_steps=most, throw=False,
            )  # fmt: skip

        solution = jax.vmap(lone)(y, cond, keys)
        return outcome(solution, sde_evaluations(solver), y.shape[0], t0, t1, True)

    request = Request(high, low, levels, dense, denoise, most, throw)
    return integrate(solve, start, request, D, cond, as_correction(correct), keys)


def _terms(
    solver: "diffrax.AbstractSolver",
    y: Array,
    key: Key,
    begin: Array,
    end: Array,
    resolution: Array,
) -> Any:
    """Drift and diffusion with the Brownian path of one sample."""
    import diffrax

    shape = jax.ShapeDtypeStruct(y.shape, y.dtype)
    path = diffrax.VirtualBrownianTree(begin, end, resolution, shape, key, _levy_area(solver))
    return diffrax.MultiTerm(diffrax.ODETerm(_drift), diffrax.ControlTerm(_diffusion, path))


def _levy_area(solver: "diffrax.AbstractSolver") -> Any:
    """Return the least of the path that the solver needs: its increments, or integrals too."""
    import diffrax

    wanted = getattr(solver, "minimal_levy_area", diffrax.BrownianIncrement)
    kinds = diffrax.BrownianIncrement, diffrax.SpaceTimeLevyArea, diffrax.SpaceTimeTimeLevyArea
    return next(kind for kind in kinds if issubclass(kind, wanted))


def _drift(tau: PyTree, y: PyTree, args: PyTree) -> Any:
    D, cond, eta = args
    return (1.0 + eta) * (D(y, jnp.exp(-tau), cond).astype(y.dtype) - y)


def _diffusion(tau: PyTree, y: PyTree, args: PyTree) -> Any:
    import lineax

    width = jnp.exp(-tau) * jnp.sqrt(2.0 * args[2])
    return lineax.DiagonalLinearOperator(jnp.broadcast_to(width, y.shape))


def sde_evaluations(solver: "diffrax.AbstractSolver") -> tuple[int, int] | None:
    """Evaluations of the drift at the start and per step, for solvers that are known."""
    import diffrax

    if isinstance(solver, diffrax.AbstractSRK):
        tableau: Any = solver.tableau
        ignored = 0 if tableau.ignore_stage_f is None else int(np.sum(tableau.ignore_stage_f))
        return 0, len(tableau.b_sol) - ignored
    if isinstance(solver, diffrax.Euler | diffrax.EulerHeun | diffrax.ItoMilstein):
        return 0, 1
    return evaluations(solver)
