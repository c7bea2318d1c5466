r"""Exact log-likelihood: the change of volume along the probability-flow ODE.

With u = log s the ODE dy/ds = (y - D)/s is dy/du = y - D(y, e^u), and along a solution the log
density of the noisy data changes by minus its divergence (Chen et al. 1806.07366, theorem 1; Song
et al. 2011.13456, section 4.3). From data x at the lowest level up to y_T at the highest,

    log p_low(x) = log p_high(y_T) + int_{log low}^{log high} (d - tr dD/dy) du.

Both are integrated together, by diffrax, in the variable u, which increases and in which they are
smooth. The trace is exact from d directional derivatives, or Hutchinson's estimate from n random
probes v with E v v^T = I,

    tr J = E v^T J v,    variance 2 (|S|^2 - sum_i S_ii^2) (Rademacher), 2 |S|^2 (Gaussian),

for one probe, S the symmetric part of J = dD/dy and |S| its Frobenius norm. A sample keeps its
probes through the whole solve, so that the estimate is of a smooth integrand and, but for
truncation, unbiased.

What is computed is the density of the data with noise of level ``low``, evaluated at the data: the
standard truncation. The default log p_high, that of N(0, s_T^2), neglects the data; for data of
mean m and covariance eigenvalues l, with y_T = m + sqrt(s_T^2 + l) z, it is too low by

    |m|^2/(2 s_T^2) + sum m sqrt(1 + l/s_T^2) z/s_T + sum z^2 l/(2 s_T^2) - sum log(1 + l/s_T^2)/2

nats: on average by about |m|^2/(2 s_T^2), for a sample by that give or take |m|/s_T, which is much
more (0.25 nats at s_T = 80 for |m| = 20, ten thousand numbers of mean 0.2). A Gaussian prior with
the moments of the data removes it.
"""

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxdiff.arrays import one_by_one
from jaxdiff.brief import short
from jaxdiff.denoisers import as_partial
from jaxdiff.noise import START, sample_keys
from jaxdiff.sampling.adaptive.outcome import check_range
from jaxdiff.sampling.adaptive.probability_flow import evaluations
from jaxdiff.sampling.checks import check_key, check_start
from jaxdiff.sampling.finished import (
    check_finished,
    check_max_steps,
    finite_rows,
    pid_controller,
)
from jaxdiff.typing import Array, Cond, Denoiser, Key

if TYPE_CHECKING:
    import diffrax

PROBES = START - 1  # in place of an evaluation's number, as START
Distribution = Literal["rademacher", "gaussian"]


class Density(Protocol):
    """A model of the data with a known density at every level, such as ``exact.Gaussian``."""

    def log_density(self, y: Array, level: Any) -> Array:
        """Return log p_level(y) of states (batch, d), in nats, (batch,)."""
        ...


class Likelihood(NamedTuple):
    """Outcome of :func:`log_likelihood`.

    log_density: (batch,) log p_low(x) in nats.
    latent: (batch, *shape) z = y_T/s_T, what the data are as noise.
    nfe: (batch,) int32 points where the network and its directional derivatives were evaluated (n,
        or d, of them at each, each about as costly as the network); None for implicit solvers.
        Under ``per_sample`` the batch costs its largest.
    num_steps: (batch,) int32 attempted steps.
    finished: (batch,) whether level ``high`` was reached, in numbers that are finite.
    """

    __repr__ = short

    log_density: Array
    latent: Array
    nfe: Array | None
    num_steps: Array
    finished: Array


def log_likelihood(
    denoiser: Denoiser,
    data: Array,
    high: float | Array,
    low: float | Array,
    cond: Cond = None,
    *,
    prior: Density | None = None,
    probes: int | None = None,
    distribution: Distribution = "rademacher",
    key: Key | None = None,
    index: Array | None = None,
    num_steps: int | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    solver: "diffrax.AbstractSolver | None" = None,
    controller: "diffrax.AbstractStepSizeController | None" = None,
    adjoint: "diffrax.AbstractAdjoint | None" = None,
    first_step: float = 0.1,
    per_sample: bool = True,
    max_steps: int = 4096,
    throw: bool = True,
) -> Likelihood:
    """Return the log-likelihood of data under the model that a denoiser samples from.

    Differentiable in reverse mode with respect to data and parameters (those of a denoiser that is
    a ``jax.tree_util.Partial``, or closed over).

    Args:
        denoiser: ``D(y, level, cond)``.
        data: (batch, *shape), float32 or float64;
            :func:`jaxdiff.sampling.dequantisation.dequantise` makes them of pixels.
        high, low: noise levels, 0 < low < high. Data are taken for states at ``low``.
        cond: handed to the denoiser; its leaves are batch first, or one number for all.
        prior: what the data are like at level ``high``; N(0, high^2) if None. Its dimension is that
            of the flattened data.
        probes: random probes per sample; None takes the exact trace, d derivatives at once.
        distribution: of the probes.
        key, index: key of the probes, and the samples' numbers: a sample's probes depend on both
            alone.
        num_steps: this many equal steps in log level, instead of error control.
        rtol, atol: tolerances on the state and, element by element, on the log density in nats.
        solver: any diffrax solver; Tsit5 by default.
        controller: a diffrax step size controller, instead of rtol and atol.
        adjoint: how diffrax differentiates; ``diffrax.DirectAdjoint()`` for forward mode.
        first_step, max_steps, throw: of the adaptive solve, as for
            :func:`jaxdiff.sampling.adaptive.probability_flow.adaptive`.
        per_sample: solve for every sample by itself, with its own steps: results are independent of
            the batch and stay sharded as it is.

    Returns:
        The log density in nats (batch,), the latents, and evaluations, steps and whether each
        sample finished.

    Raises:
        ValueError, TypeError: if the arguments do not fit together, before anything is compiled.
        RuntimeError: samples that did not finish, with ``throw``.

    Source: Song et al., Score-Based Generative Modeling through Stochastic Differential Equations,
    arXiv 2011.13456, section 4.3; Chen et al., Neural Ordinary Differential Equations, arXiv
    1806.07366, theorem 1.
    """
    import diffrax

    check_start(data, index)
    check_range(high, low)
    check_max_steps(max_steps)
    vectors = probe_vectors(data, probes, distribution, key, index)
    bottom, top = (jnp.asarray(level, data.dtype) for level in (low, high))
    span = jnp.log(bottom), jnp.log(top)
    solver = diffrax.Tsit5() if solver is None else solver
    if num_steps is None:
        controller = (
            pid_controller(solver, rtol=rtol, atol=atol) if controller is None else controller
        )
        pace = {"stepsize_controller": controller, "dt0": first_step, "max_steps": max_steps}
    else:
        pace = _equal_steps(*span, _whole("num_steps", num_steps))
    solve = functools.partial(
        diffrax.diffeqsolve, diffrax.ODETerm(_field), solver, *span, **pace,
        adjoint=diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint, throw=False,
    )  # fmt: skip
    D = as_partial(denoiser)
    run = functools.partial(_run, solve, D)
    if per_sample:
        cond = one_by_one(D, data, cond, "log_likelihood", ", or per_sample=False")
        run = _each(run, probes is None)
    y, change, taken, done = run(data, cond, vectors)
    log_density = _log_prior(prior, y, top) + jnp.sum(change.reshape(y.shape[0], -1), axis=1)
    taken, counts = jnp.broadcast_to(taken, y.shape[:1]), evaluations(solver)
    nfe = None if counts is None else counts[0] + counts[1] * taken
    finished = done & finite_rows((y, log_density))
    if throw:
        most = pace["max_steps"]
        log_density = check_finished(log_density, finished, taken, most, f"level {high}")
    return Likelihood(log_density, y / top, nfe, taken, finished)


def _field(u: PyTree, state: PyTree, args: PyTree) -> Any:
    """dy/du, and the rate of the log density element by element."""
    D, cond, vectors = args
    output, diagonal = jacobian_diagonal(D, state[0], jnp.exp(u), cond, vectors)
    return state[0] - output, 1 - diagonal


def jacobian_diagonal(
    D: Denoiser, y: Array, level: Array, cond: Cond, vectors: Array
) -> tuple[Array, Array]:
    """D(y), and the diagonal of its Jacobian, sum_k v_k (dD/dy v_k), whose sum is the trace.

    vectors: v_k, (n, batch or 1, *shape). The diagonal is exact where sum_k v_k v_k^T is the
    identity, and Hutchinson's estimate (doi 10.1080/03610919008812866) where it is so on average.
    """
    denoise = lambda y: D(y, level, cond).astype(y.dtype)  # noqa: E731
    along = lambda v: jax.jvp(denoise, (y,), (jnp.broadcast_to(v, y.shape),))  # noqa: E731
    outputs, derivatives = jax.vmap(along)(vectors)
    return outputs[0], jnp.sum(vectors * derivatives, axis=0)


def probe_vectors(
    data: Array, probes: int | None, distribution: str, key: Key | None, index: Array | None
) -> Array:
    """Unit vectors (d, 1, *shape), or random ones (probes, batch, *shape) of variance 1/probes."""
    shape = data.shape[1:]
    if probes is None:
        size = math.prod(shape)
        return jnp.eye(size, dtype=data.dtype).reshape(size, 1, *shape)
    draws = {"rademacher": jax.random.rademacher, "gaussian": jax.random.normal}
    if distribution not in draws:
        raise ValueError(f"probes are {' or '.join(draws)}, not {distribution!r}")
    if key is None:
        raise ValueError("random probes need key=; with probes=None the trace is exact")
    check_key("log_likelihood", key)
    size = (_whole("probes", probes), *shape)

    def one(key: Key) -> Array:
        return draws[distribution](jax.random.fold_in(key, PROBES), size, data.dtype)

    return jax.vmap(one, out_axes=1)(sample_keys(key, data, index)) / probes**0.5


def _whole(name: str, number: int) -> int:
    if number != int(number) or number < 1:
        raise ValueError(f"{name} must be a whole number, at least 1; not {number}")
    return int(number)


def _equal_steps(begin: Array, end: Array, num_steps: int) -> dict[str, Any]:
    import diffrax

    knots = jnp.linspace(begin, end, num_steps + 1, dtype=begin.dtype)
    return {"stepsize_controller": diffrax.StepTo(knots), "dt0": None, "max_steps": num_steps}


def _run(
    solve: Callable[..., Any], D: Denoiser, data: Array, cond: Cond, vectors: Array
) -> tuple[Array, Array, Array, Array]:
    """States at the end, change of log density element by element, the number of steps, and whether
    the end was reached.
    """
    import diffrax

    # 0 * data and not zeros: under vmap diffrax's checkpointed adjoint gives wrong gradients of a
    # part of the state that stays the same for all samples, as this would for a linear D
    solution = solve(y0=(data, 0.0 * data), args=(D, cond, vectors))
    y, change = (a[0] for a in solution.ys)
    num_steps = jnp.asarray(solution.stats["num_steps"], jnp.int32)
    return y, change, num_steps, diffrax.is_successful(solution.result)


def _each(run: Callable[..., Any], shared: bool) -> Callable[..., Any]:
    """``run`` sample by sample, each with its own steps; vectors may be shared."""

    def one(data: Array, cond: Cond, vectors: Array) -> tuple[Array, Array, Array, Array]:
        own = vectors.reshape(-1, 1, *data.shape)
        y, change, taken, done = run(data[None], jax.tree.map(lambda a: a[None], cond), own)
        return y[0], change[0], taken, done

    return jax.vmap(one, in_axes=(0, 0, None if shared else 1))


def _log_prior(prior: Density | None, y: Array, level: Array) -> Array:
    flat = y.reshape(y.shape[0], -1)
    if prior is not None:
        return prior.log_density(flat, level)
    constant = math.log(2 * math.pi) + 2 * jnp.log(level)
    return -0.5 * jnp.sum((flat / level) ** 2 + constant, axis=1)
