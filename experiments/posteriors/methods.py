"""Every method, with the settings of the reference table or its paper's.

A row is a function of a problem's parts, a number of steps and a key: it returns samples. What it
makes is compiled once for all problems, whose numbers are arguments.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxdiff as jd
from experiments.posteriors.problems import Problem
from jaxdiff import posterior
from jaxdiff.app import restoration_methods as restoring
from jaxdiff.conditioning import corrections, processes

LOW, HIGH = 0.01, 40.0
NOISY, ALL, NONE = (0.05, 0.3), (0.05, 0.3, 0.0), (0.0,)
Sampler = Callable[[Problem, int, jax.Array, int], Any]  # problem, evaluations, key, count


class Row(NamedTuple):
    """A method: its name, its sampler, its evaluations in the first table at most, the reference
    scores by noise (sliced Wasserstein, mean, covariance, misfit), the noises it is measured with,
    whether it is one program (solvers that are no table compile for too long unrolled), and the
    fewest evaluations it can do with.
    """

    name: str
    sampler: Sampler
    evaluations: int
    reference: dict[float, tuple[float, ...]]
    noises: tuple[float, ...] = NOISY
    compiled: bool = True
    least: int = 1


def grid(num_steps: int) -> Any:
    """Return Karras' levels from 40 to 0.01, rho 7, and 0."""
    return jd.grids.karras(num_steps, LOW, HIGH)


def ode(guide: Callable[[Problem, Any], Any]) -> Sampler:
    """Heun's method on the guided flow; ``guide(problem, levels)`` makes the denoiser."""

    def sampler(given: Problem, evaluations: int, key: jax.Array, count: int) -> Any:
        levels = grid((evaluations + 1) // 2)
        start = jd.start(key, levels, count, given.prior.means.shape[1:])
        return jd.sample(guide(given, levels), jd.table(jd.solvers.heun, levels), start)

    return sampler


def sde(guide: Callable[[Problem, Any], Any], eta: float = 1.0, correct: Any = None) -> Sampler:
    """The ancestral sampler, DDIM with eta 1; ``correct(problem)`` makes a correction."""

    def sampler(given: Problem, evaluations: int, key: jax.Array, count: int) -> Any:
        levels = grid(evaluations)
        start = jd.start(key, levels, count, given.prior.means.shape[1:])
        table = jd.table(jd.solvers.ddim, levels, eta=eta)
        fix = None if correct is None else correct(given)
        return jd.sample(guide(given, levels), table, start, key=key, correct=fix)

    return sampler


def restored(name: str) -> Sampler:
    """A method of ``jaxdiff restore``, in as many steps as the evaluations are enough for."""
    method = restoring.METHODS[name]

    def sampler(given: Problem, evaluations: int, key: jax.Array, count: int) -> Any:
        fits = [n for n in range(1, evaluations + 1) if method.evaluations(n) <= evaluations]
        levels = grid(fits[-1])
        start = jd.start(key, levels, count, given.prior.means.shape[1:])
        index = jnp.arange(count)
        problem = restoring.Problem(
            given.prior.denoiser, given.seen, start, key, index, None, data_std=1.0
        )
        return method.run(problem, levels)

    return sampler


def langevin(stages: int) -> Sampler:
    """ULA, or SK-ROCK of so many stages, at level 0.1, from normal noise of the data's variance."""

    def sampler(given: Problem, evaluations: int, key: jax.Array, count: int) -> Any:
        level, seen = 0.1, given.seen
        x = jax.random.normal(jax.random.fold_in(key, 2), (count, *given.prior.means.shape[1:]))
        operator: Any = seen.operator
        largest = jnp.max(operator.svd.singular)
        curvature = 1 / level**2 + largest**2 / seen.noise**2
        D = given.prior.denoiser
        if stages == 1:
            return posterior.ula(D, seen, x, level, 1 / curvature, key, evaluations)
        step, steps = stages**2 / 4 / curvature, evaluations // stages
        return posterior.skrock(D, seen, x, level, step, key, steps, stages)

    return sampler


def particles(make: Callable[..., Any]) -> Sampler:
    """Sequential Monte Carlo with as many particles as samples, resampled at last."""

    def sampler(given: Problem, evaluations: int, key: jax.Array, count: int) -> Any:
        levels = grid(evaluations)
        start = jd.start(key, levels, count, given.prior.means.shape[1:])
        return posterior.resampled(make(given, levels, start, key), jax.random.fold_in(key, 1))

    return sampler


def repaint(repeats: int) -> Sampler:
    """RePaint: what is known replaced, every step taken so many times."""

    def sampler(given: Problem, evaluations: int, key: jax.Array, count: int) -> Any:
        levels = grid(max(2, evaluations // repeats))
        start = jd.start(key, levels, count, given.prior.means.shape[1:])
        path = corrections.resampling_path(len(levels) - 1, 1, repeats)
        table = corrections.travel_table(jd.solvers.ddim, levels, path)
        u = given.seen.observation
        known = jnp.concatenate([u, jnp.zeros_like(u)])
        correct = corrections.replacement(known, jnp.arange(len(known)) < 4)
        return jd.sample(given.prior.denoiser, table, start, key=key, correct=correct)

    return sampler


def ddrm(given: Problem, evaluations: int, key: jax.Array, count: int) -> Any:
    """DDRM with its paper's noises."""
    levels = grid(evaluations)
    start = jd.start(key, levels, count, given.prior.means.shape[1:])
    first = processes.ddrm_start(start, float(levels[0]), given.seen)
    return jd.direct(given.prior.denoiser, processes.ddrm, levels, first, key=key,
                     measurement=given.seen)  # fmt: skip


def floored(given: Problem) -> Any:
    """The measurement with a little noise where it has none, for methods that divide by it."""
    noise = jnp.maximum(given.seen.noise, 1e-2)
    return jd.operators.Measurement(given.seen.operator, given.seen.observation, noise)


def half_misfit(given: Problem) -> Callable[[Any], Any]:
    """|u - A x|^2/2, a loss without the noise."""
    return lambda x: 0.5 * jnp.sum(given.seen.residual(x) ** 2, axis=1)


def likelihood(given: Problem) -> Callable[[Any], Any]:
    """Minus the log-likelihood."""
    return lambda x: -floored(given).log_likelihood(x)


def covariance(given: Problem) -> Any:
    """The prior's covariance (d, d)."""
    return given.prior.moments()[1]


def wide(given: Problem, levels: Any, start: Any, key: Any) -> Any:
    """TDS with PiGDM's spread in its twist."""
    twist = posterior.gaussian_twist(given.seen)
    return posterior.tds(given.prior.denoiser, twist, levels, start, key)


def narrow(given: Problem, levels: Any, start: Any, key: Any) -> Any:
    """TDS with the likelihood as its twist, the paper's."""
    twist = lambda x0, level: given.seen.log_likelihood(x0)  # noqa: E731
    return posterior.tds(given.prior.denoiser, twist, levels, start, key)


def filtering(given: Problem, levels: Any, start: Any, key: Any) -> Any:
    """FPS-SMC."""
    return posterior.fps_smc(given.prior.denoiser, given.seen, levels, start, key)


ROWS = (
    Row("exact posterior, ODE", ode(lambda p, s: p.posterior.denoiser), 127,
        {0.05: (.017, .022, .04, .051), 0.3: (.037, .038, .07, .273), 0.0: (.027, .016, .14)},
        ALL),
    Row("exact posterior, SDE", sde(lambda p, s: p.posterior.denoiser), 256,
        {0.05: (.015, .018, .06, .049), 0.3: (.028, .027, .05, .268)}, ALL),
    Row("MMPS, ODE", ode(lambda p, s: posterior.mmps(p.prior.denoiser, floored(p), 4)), 127,
        {0.05: (.264, .48, 2.5, .053), 0.3: (.302, .56, .85, .307), 0.0: (.277, .38, 3.9)}, ALL),
    Row("MMPS, one iteration", ode(lambda p, s: posterior.mmps(p.prior.denoiser, floored(p), 1)),
        127, {}),
    Row("MMPS, SDE", sde(lambda p, s: posterior.mmps(p.prior.denoiser, floored(p), 4)), 256, {}),
    Row("TMPD, SDE", sde(lambda p, s: posterior.tmpd(p.prior.denoiser, floored(p))), 256, {}),
    Row("Gaussian covariance", ode(
        lambda p, s: posterior.gaussian_covariance(p.prior.denoiser, floored(p), covariance(p))),
        127, {0.05: (.304, .62, 2.8, .052), 0.3: (.351, .71, .86, .308)}),
    Row("PiGDM, ODE", ode(lambda p, s: posterior.pigdm(p.prior.denoiser, p.seen)), 127,
        {0.05: (.470, .95, 6.1, .115), 0.3: (.391, .78, 1.3, .372), 0.0: (.413, .56, 5.7)}, ALL),
    Row("PiGDM, SDE", sde(lambda p, s: posterior.pigdm(p.prior.denoiser, p.seen)), 256, {}, ALL),
    Row("PiGDM without Jacobian", ode(
        lambda p, s: posterior.pigdm(p.prior.denoiser, p.seen, jacobian=False)), 127,
        {0.05: (.628, 1.41, 7.3, .059), 0.3: (.568, 1.24, 1.4, .350)}, ALL),
    Row("DPS, zeta 1", sde(lambda p, s: posterior.dps(p.prior.denoiser, p.seen, s)), 256,
        {0.05: (.350, .49, 3.7, .737), 0.3: (.292, .55, .70, .738)}, ALL),
    Row("DPS, zeta 0.3", sde(lambda p, s: posterior.dps(p.prior.denoiser, p.seen, s, 0.3)), 256,
        {0.05: (.446, .83, 6.1, .226), 0.3: (.354, .69, .92, .226)}, ALL),
    Row("MCG without projection", sde(lambda p, s: posterior.mcg(p.prior.denoiser, p.seen, s, 0.3)),
        256, {}),
    Row("MCG", sde(lambda p, s: posterior.mcg(p.prior.denoiser, p.seen, s),
                   correct=lambda p: corrections.projection(p.seen)), 64,
        {0.0: (.234, .24, 3.2)}, ALL),
    Row("LGD-MC, 10 draws, SDE", sde(lambda p, s: posterior.lgd_mc(
        p.prior.denoiser, likelihood(p), jax.random.key(1), 10)), 256, {}),
    Row("energy of the likelihood, SDE", sde(lambda p, s: posterior.energy(
        p.prior.denoiser, likelihood(p), lambda s: 1 / (1 + s**2))), 256, {}),
    Row("MPGD", sde(lambda p, s: posterior.mpgd(p.prior.denoiser, half_misfit(p), 0.5)), 256, {},
        ALL),
    Row("universal guidance, backward", sde(lambda p, s: posterior.backward(
        p.prior.denoiser, half_misfit(p), 5, 0.2)), 256, {}, ALL),
    Row("RED-diff", restored("red_diff"), 256, {}, ALL),
    Row("DiffPIR, lambda 10, SDE", sde(lambda p, s: posterior.diffpir(p.prior.denoiser, p.seen)),
        256, {}, ALL),
    Row("DDS, SDE", sde(lambda p, s: posterior.dds(p.prior.denoiser, p.seen)), 256, {}, ALL),
    Row("annealed likelihood, SDE", sde(lambda p, s: posterior.annealed_langevin(
        p.prior.denoiser, floored(p))), 256, {}),
    Row("Score-SDE's likelihood", restored("score_sde"), 256, {}),
    Row("DAPS", restored("daps"), 255, {}, compiled=False),
    Row("ReSample", restored("resample"), 256, {}, ALL, compiled=False),
    Row("ULA, level 0.1", langevin(1), 1000, {}),
    Row("SK-ROCK, 10 stages, level 0.1", langevin(10), 1000, {}),
    Row("SNIPS", restored("snips"), 256, {}, compiled=False),
    Row("DDRM, eta 0.85", ddrm, 64,
        {0.05: (.489, 1.01, 6.2, .034), 0.3: (.373, .74, 1.0, .195)}, ALL, compiled=False),
    Row("DDNM+, eta 0.85", restored("ddnm_plus"), 64, {}, ALL, compiled=False),
    Row("DDNM, eta 0.85", sde(lambda p, s: corrections.ddnm(p.prior.denoiser, p.seen), 0.85), 64,
        {0.0: (.388, .51, 5.9)}, NONE),
    Row("projection", restored("projection"), 64, {}, NONE),
    Row("replacement", repaint(1), 64, {0.0: (.453, .62, 6.8)}, NONE),
    Row("RePaint, 5 times", repaint(5), 320, {0.0: (.297, .37, 5.2)}, NONE, least=10),
    Row("RePaint, 20 times", repaint(20), 1280, {0.0: (.218, .21, 3.9)}, NONE,
        least=40),
    Row("RePaint, 100 times", repaint(100), 6400, {0.0: (.160, .12, 2.7)}, NONE,
        least=200),
    Row("TDS", particles(wide), 256, {}),
    Row("TDS, the paper's twist", particles(narrow), 256, {}),
    Row("FPS-SMC", particles(filtering), 256, {}),
    Row("prior", ode(lambda p, s: p.prior.denoiser), 127,
        {0.05: (.974, 2.2, 10., 1.06), 0.3: (.819, 1.9, 2.4, 1.0), 0.0: (.94, 1.4, 15.)}, ALL),
)  # fmt: skip
FLOOR = {0.05: (0.020, 0.020, 0.05, 0.051), 0.3: (0.023, 0.021, 0.03, 0.272)}
