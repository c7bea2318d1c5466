"""Adaptive solution of the probability-flow ODE, by diffrax.

In tau = -log level the ODE dy/ds = (y - D)/s becomes

    dy/dtau = D(y, e^-tau) - y,

whose right-hand side stays of the size of the data over all levels, and tau increases towards the
data: integrated in this variable, step sizes change little and solvers never run backwards in time.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.prediction import as_partial
from jaxdiff.process import check
from jaxdiff.typing import Array, Cond, Denoiser


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["interpolation", "begin", "end"],
    meta_fields=["per_sample"],
)
@dataclasses.dataclass(frozen=True)
class Path:
    """The solution of an adaptive solve at every level: ``path(levels)``. A pytree.

    interpolation: diffrax's, one per sample where ``per_sample``; begin, end: -log of its levels.
    """

    interpolation: Any
    begin: Array
    end: Array
    per_sample: bool

    def __call__(self, levels: float | Sequence[float] | np.ndarray | Array) -> Array:
        """States (batch, *shape) at a level, or (n, batch, *shape) at levels (n,), in any order.

        Raises:
            ValueError: levels outside of those that were integrated over.
        """
        given = jnp.asarray(levels, self.begin.dtype)
        # a level given as a Python number rounds on its way to the ends' dtype and logarithm
        within = lambda s, b, e: ((-np.log(s) > b - 1e-5) & (-np.log(s) < e + 1e-5)).all()  # noqa: E731
        check("the path has levels from low to high only", within, given, self.begin, self.end)
        times = jnp.clip(-jnp.log(given), self.begin, self.end)
        return self._at(times) if times.ndim == 0 else jax.vmap(self._at)(times)

    def _at(self, time: Array) -> Array:
        if not self.per_sample:
            return self.interpolation.evaluate(time)
        return jax.vmap(lambda one: one.evaluate(time)[0])(self.interpolation)


class Adaptive(NamedTuple):
    """Outcome of an adaptive solve.

    states: (batch, *shape) at the lowest level, or denoised there.
    nfe: (batch,) int32 network evaluations spent on each sample, rejected steps included; None for
        implicit solvers, whose evaluations cannot be told from their steps. Under ``per_sample``
        the batch costs its largest.
    steps: (batch,) int32 attempted steps.
    saved: (n, batch, *shape) states at the ``levels`` asked for, if any.
    path: the whole solution, with ``dense``.
    """

    states: Array
    nfe: Array | None
    steps: Array
    saved: Array | None = None
    path: Path | None = None


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
    levels: Sequence[float] | np.ndarray | Array | None = None,
    dense: bool = False,
    adjoint: Any = None,
    max_steps: int | None = None,
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
        levels: (n,) decreasing levels within [low, high] whose states to return as ``saved``,
            interpolated within the steps at no cost in evaluations.
        dense: keep the whole solution, as ``path``. It takes memory for ``max_steps`` steps.
        adjoint: a diffrax adjoint. By default ``RecursiveCheckpointAdjoint``: first derivatives in
            reverse mode (``jax.grad``). ``diffrax.ForwardMode()`` has ``jax.jvp`` instead. Steps
            are held fixed in differentiation. For second derivatives use a fixed grid.
        max_steps: give up after this many; 4096 by default, 256 with ``dense``.
        throw: raise when it gives up; otherwise the states reached are returned.

    Raises:
        ValueError: levels out of order, before anything is compiled.
    """
    import diffrax

    check_range(high, low)
    begin, end = (-jnp.log(jnp.asarray(level, start.dtype)) for level in (high, low))
    solver = diffrax.Tsit5() if solver is None else solver
    controller = diffrax.PIDController(rtol=rtol, atol=atol) if controller is None else controller
    D, counts = as_partial(denoiser), evaluations(solver)
    run = functools.partial(
        diffrax.diffeqsolve, diffrax.ODETerm(flow_field), solver, begin, end, first_step,
        stepsize_controller=controller, saveat=save_at(levels, dense, begin, end),
        adjoint=diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
        max_steps=max_steps or (256 if dense else 4096), throw=throw,
    )  # fmt: skip

    def solve(y: Array, c: Cond) -> Any:
        if counts is None or counts[0] == 0:
            return run(y0=y, args=(D, c))
        # given the first stage, diffrax does not make it again when the first step is rejected
        state = jnp.array(False), flow_field(begin, y, (D, c))
        return run(y0=y, args=(D, c), solver_state=state)

    if per_sample:
        lone = lambda y, c: solve(y[None], jax.tree.map(lambda a: a[None], c))  # noqa: E731
        solution = jax.vmap(lone)(start, cond)
    else:
        solution = solve(start, cond)
    out = outcome(solution, counts, start.shape[0], begin, end, per_sample)
    return denoised(out, D, low, cond) if denoise else out


def flow_field(tau: Any, y: Any, args: Any) -> Any:
    """Return dy/dtau = D - y for args (D, cond)."""
    D, cond = args
    return D(y, jnp.exp(-tau), cond).astype(y.dtype) - y


def check_range(high: float | Array, low: float | Array) -> None:
    """Raise ValueError unless high > low > 0, both finite; traced levels are trusted."""
    positive = lambda *levels: all(0 < float(level) < math.inf for level in levels)  # noqa: E731
    check("levels must be positive and finite", positive, high, low)
    below = lambda a, b: float(a) < float(b)  # noqa: E731
    check("sampling goes down in level: need low < high", below, low, high)


def save_at(levels: Any, dense: bool, begin: Array, end: Array) -> Any:
    """Return what diffrax is to save: the end, the states at the levels, the interpolation.

    Raises ValueError unless the levels decrease and lie between the two ends.
    """
    import diffrax

    subs = {"end": diffrax.SubSaveAt(t1=True)}
    if levels is not None:
        given = jnp.asarray(levels, begin.dtype)
        check("levels must be a list of decreasing numbers", _decreasing, given)
        within = lambda s, b, e: ((s < np.exp(-b) * 1.00001) & (s > np.exp(-e) / 1.00001)).all()  # noqa: E731
        check("levels to save must lie between low and high", within, given, begin, end)
        subs["saved"] = diffrax.SubSaveAt(ts=jnp.clip(-jnp.log(given), begin, end))
    return diffrax.SaveAt(subs=subs, dense=dense)


def _decreasing(levels: np.ndarray) -> bool:
    return levels.ndim == 1 and bool((np.diff(levels) < 0).all())


def outcome(
    solution: Any,
    counts: tuple[int, int] | None,
    batch: int,
    begin: Array,
    end: Array,
    per_sample: bool,
) -> Adaptive:
    """Return the outcome of a diffrax solve, of the whole batch or of (1, *shape) per sample."""
    steps = jnp.broadcast_to(jnp.asarray(solution.stats["num_steps"], jnp.int32), (batch,))
    nfe = None if counts is None else counts[0] + counts[1] * steps
    # saved states come as (batch, n, 1, *shape), or (n, batch, *shape)
    first = lambda ys: jnp.moveaxis(ys[:, :, 0], 1, 0) if per_sample else ys  # noqa: E731
    saved = first(solution.ys["saved"]) if "saved" in solution.ys else None
    kept = solution.interpolation
    path = None if kept is None else Path(kept, begin, end, per_sample)
    return Adaptive(first(solution.ys["end"])[0], nfe, steps, saved, path)


def denoised(out: Adaptive, denoiser: Denoiser, low: Any, cond: Cond) -> Adaptive:
    """Return the outcome with its states denoised at the lowest level: one more evaluation."""
    states = denoiser(out.states, jnp.asarray(low, out.states.dtype), cond)
    return out._replace(states=states, nfe=None if out.nfe is None else out.nfe + 1)


def evaluations(solver: Any) -> tuple[int, int] | None:
    """Evaluations at the start and per step of an explicit Runge-Kutta solver."""
    import diffrax

    if not isinstance(solver, diffrax.AbstractERK):
        return None
    tableau: Any = solver.tableau
    if tableau.fsal:  # the last stage is the next step's first
        return 1, tableau.num_stages - 1
    return 0, tableau.num_stages
