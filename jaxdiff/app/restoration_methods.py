"""Methods of ``jaxdiff restore``: each a function of a problem that returns restored samples."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff import solvers
from jaxdiff.app.shown import condition
from jaxdiff.arrays import pytree_dataclass
from jaxdiff.conditioning import corrections, posterior, processes
from jaxdiff.conditioning.operators import Linear, Measurement
from jaxdiff.conditioning.posterior.particles import effective_number
from jaxdiff.conditioning.posterior.parts import gain
from jaxdiff.noise import draw, sample_keys
from jaxdiff.sampling.direct import direct
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.start import start
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array

REPEATS, ODE_STEPS, INNER = 5, 5, 3  # RePaint's repeats; evaluations of a step of DAPS, of SNIPS
DRAWS, RED_RATE = 10, 0.1  # of LGD-MC; of RED-diff's Adam


class Pictures(NamedTuple):
    """Of a model of latents: what was measured of the pictures, and the autoencoder's two ways."""

    seen: Measurement
    encode: Any
    decode: Any


@pytree_dataclass
class Problem:
    """Measurements of rows, (batch, *measured), and what they are restored with.

    start: (batch, *shape), noise of the first level. index: (batch,), their numbers. data_std:
    standard deviation of the data. pictures: of a model of latents.
    """

    denoiser: Any
    seen: Measurement
    start: Array
    key: Any
    index: Array
    cond: Any
    data_std: float
    pictures: Pictures | None = None


class Method(NamedTuple):
    """A method.

    run: ``run(problem, levels) -> (batch, *shape)``; of particles ``run(problem, levels) ->
    Particles`` of one measurement. linear: whether the operator must be linear. mask: whether it
    must be a mask. blocks: whether it must be the means of blocks. smaller: whether the measurement
    must be a smaller image. shown: whether the network is shown the measurement. latents: whether
    it is for models of latents, a linear measurement of the pictures. noise: whether the
    measurement has some, none, or either. evaluations: of the network by number of steps. compiled:
    as one program, or by steps. particles: whether it takes one measurement at a time. inverts:
    whether it fits a linear measurement exactly, with its noise.
    """

    run: Callable[[Problem, Any], Any]
    linear: bool = True
    mask: bool = False
    blocks: bool = False
    smaller: bool = False
    shown: bool = False
    latents: bool = False
    noise: Literal["some", "none", "either"] = "either"
    evaluations: Callable[[int], int] = lambda n: n
    compiled: bool = True
    particles: bool = False
    inverts: bool = False


def _guided(guide: Callable[[Problem, Any], Any], correct: Any = None) -> Any:
    """The ancestral sampler, DDIM with eta 1, of a guided denoiser."""

    def run(p: Problem, levels: Any) -> Array:
        fix = None if correct is None else correct(p)
        made = table(solvers.ddim, levels, eta=1.0)
        return sample(
            guide(p, levels), made, p.start, p.cond, key=p.key, index=p.index, correct=fix
        )

    return run


def _by_gradients(guide: Callable[[Problem, Any], Any], correct: Any = None) -> Any:
    """:func:`_guided` for guides that differentiate the network, by steps: on CPU gradients of
    convolutions are many times slower in a loop.
    """

    def run(p: Problem, levels: Any) -> Array:
        fix = None if correct is None else correct(p)
        return direct(
            guide(p, levels), solvers.ddim, levels, p.start, p.cond, key=p.key, index=p.index,
            correct=fix, eta=1.0,
        )  # fmt: skip

    return run


def _by_steps(solver: Any, first: Any = None) -> Any:
    """A solver that takes the measurement."""

    def run(p: Problem, levels: Any) -> Array:
        y = p.start if first is None else first(p.start, float(levels[0]), p.seen)
        return direct(
            p.denoiser, solver, levels, y, p.cond, key=p.key, index=p.index, measurement=p.seen
        )

    return run


def _repaint(p: Problem, levels: Any) -> Array:
    made = corrections.travel_table(solvers.ddim, levels, _path(len(levels) - 1), eta=1.0)
    return sample(p.denoiser, made, p.start, p.cond, key=p.key, index=p.index, correct=_replaced(p))


def _path(num_steps: int) -> list[int]:
    return corrections.resampling_path(num_steps, 1, REPEATS)


def _replaced(p: Problem) -> Any:
    operator: Any = p.seen.operator
    return corrections.replacement(p.seen.observation, operator.support)


def _half_misfit(p: Problem) -> Callable[[Array], Array]:
    """|u - A(x)|^2/2 of every row."""
    return lambda x: 0.5 * jnp.sum(p.seen.residual(x).reshape(x.shape[0], -1) ** 2, axis=1)


def _minus_likelihood(p: Problem) -> Callable[[Array], Array]:
    """Minus the log-likelihood, of as many rows as there are draws for each measurement."""
    return lambda x: -p.seen.log_likelihood(x)


def _lgd(p: Problem, levels: Any) -> Any:
    return posterior.lgd_mc(p.denoiser, _minus_likelihood(p), p.key, DRAWS, p.data_std)


def _ilvr(p: Problem) -> Any:
    """The correction by the means of blocks, of the picture of least norm that has them."""
    operator: Any = p.seen.operator
    reference = operator.pseudo_inverse(p.seen.observation)
    factor = operator.shape[0] // operator.measured[0]
    return corrections.ilvr(reference, factor, filter="average")


def _red_diff(p: Problem, levels: Any) -> Array:
    """Adam on the misfit and RED-diff's regulariser, a level a step, begun with what u says of data
    N(0, d^2): A^+ u, the authors' start, where there is no noise, which A^+ would amplify.
    """
    import optax  # here: slow to import

    operator: Any = p.seen.operator
    solved = isinstance(operator, Linear) and operator.basis is not None
    variance = jnp.asarray(p.data_std, p.start.dtype) ** 2
    first = gain(p.seen, variance, p.seen.rows(p.start)) if solved else jnp.zeros_like(p.start)
    keys, misfit = sample_keys(p.key, p.start, p.index), _half_misfit(p)
    adam = optax.adam(RED_RATE, b2=0.99)

    def body(carry: tuple[Array, Any], given: tuple[Array, Array]) -> tuple[Any, None]:
        x, memory = carry
        i, level = given
        noise = draw(keys, i, 0, x.shape[1:], x.dtype)

        def loss(x: Array) -> Array:
            return jnp.sum(misfit(x) + posterior.red_diff(p.denoiser, x, level, noise, p.cond))

        move, memory = adam.update(jax.grad(loss)(x), memory)
        return (optax.apply_updates(x, move), memory), None

    each = jnp.asarray(levels[:-1], p.start.dtype)  # all but 0
    (x, _), _ = jax.lax.scan(body, (first, adam.init(first)), (jnp.arange(len(each)), each))
    return x


def _psld(p: Problem, levels: Any) -> Any:
    assert p.pictures is not None
    return posterior.psld(p.denoiser, *p.pictures, levels)


def _tds(p: Problem, levels: Any) -> Any:
    twist = posterior.gaussian_twist(p.seen, p.data_std)
    return posterior.tds(p.denoiser, twist, levels, p.start, p.key, p.cond)


def _fps_smc(p: Problem, levels: Any) -> Any:
    return posterior.fps_smc(p.denoiser, p.seen, levels, p.start, p.key, p.cond)


def _network(p: Problem, levels: Any) -> Array:
    """The samples of a network that is shown the measurement."""
    made = table(solvers.dpmpp, levels)
    return sample(p.denoiser, made, p.start, condition(p.seen, p.cond))


def _bicubic(p: Problem, levels: Any) -> Array:
    """The measurement, enlarged by Keys' cubic; no sample, and no prior."""
    return jax.image.resize(p.seen.rows(p.start), p.start.shape, "cubic")


METHODS: dict[str, Method] = {
    "network": Method(_network, shown=True),
    "bicubic": Method(_bicubic, smaller=True, evaluations=lambda n: 0),
    "mmps": Method(
        _by_gradients(lambda p, s: posterior.mmps(p.denoiser, p.seen)), noise="some", compiled=False
    ),
    "tmpd": Method(
        _by_gradients(lambda p, s: posterior.tmpd(p.denoiser, p.seen)), noise="some", compiled=False
    ),
    "pigdm": Method(
        _by_gradients(lambda p, s: posterior.pigdm(p.denoiser, p.seen, p.data_std)), compiled=False
    ),
    "dps": Method(
        _by_gradients(lambda p, s: posterior.dps(p.denoiser, p.seen, s)), linear=False,
        compiled=False,
    ),
    "mcg": Method(
        _by_gradients(
            lambda p, s: posterior.mcg(p.denoiser, p.seen, s),
            lambda p: corrections.projection(p.seen),
        ),
        compiled=False, inverts=True,
    ),
    "mpgd": Method(
        _guided(lambda p, s: posterior.mpgd(p.denoiser, _half_misfit(p), 0.5)), linear=False
    ),
    "universal": Method(
        _guided(lambda p, s: posterior.backward(p.denoiser, _half_misfit(p), 5, 0.2)), linear=False
    ),
    "lgd_mc": Method(_by_gradients(_lgd), linear=False, noise="some", compiled=False),
    "red_diff": Method(_red_diff, linear=False),
    "diffpir": Method(_guided(lambda p, s: posterior.diffpir(p.denoiser, p.seen))),
    "dds": Method(_guided(lambda p, s: posterior.dds(p.denoiser, p.seen))),
    "annealed_langevin": Method(
        _guided(lambda p, s: posterior.annealed_langevin(p.denoiser, p.seen)), noise="some"
    ),
    "score_sde": Method(
        _guided(lambda p, s: posterior.score_sde(p.denoiser, p.seen, p.key)), noise="some"
    ),
    "daps": Method(
        _by_steps(posterior.daps), noise="some", evaluations=lambda n: ODE_STEPS * n, compiled=False
    ),
    "resample": Method(
        _by_steps(posterior.resample), linear=False, compiled=False, inverts=True
    ),
    "psld": Method(_by_gradients(_psld), latents=True, compiled=False),
    "ddnm": Method(_guided(lambda p, s: corrections.ddnm(p.denoiser, p.seen)), noise="none"),
    "ddnm_plus": Method(_by_steps(corrections.ddnm_plus), compiled=False),
    "ddrm": Method(_by_steps(processes.ddrm, processes.ddrm_start), compiled=False),
    "snips": Method(
        _by_steps(processes.snips), noise="some", compiled=False,
        evaluations=lambda n: INNER * (n - 1) + 1,
    ),
    "projection": Method(
        _guided(lambda p, s: p.denoiser, lambda p: corrections.projection(p.seen)), noise="none"
    ),
    "replacement": Method(_guided(lambda p, s: p.denoiser, _replaced), mask=True, noise="none"),
    "ilvr": Method(_guided(lambda p, s: p.denoiser, _ilvr), blocks=True, noise="none"),
    "repaint": Method(
        _repaint, mask=True, noise="none",
        evaluations=lambda n: sum(b == a + 1 for a, b in zip(_path(n), _path(n)[1:], strict=False)),
    ),
    "tds": Method(_tds, noise="some", particles=True),
    "fps_smc": Method(_fps_smc, noise="some", particles=True),
}  # fmt: skip


def runner(method: Method, levels: Any) -> Callable[[Problem], Any]:
    """Return a method on a grid as a function of problems."""
    run = lambda p: method.run(p, levels)  # noqa: E731
    return jax.jit(run) if method.compiled and not method.particles else run


def of_student(sampler: Sampler) -> Callable[[Problem], Array]:
    """Return the samples of a student that is shown the measurement, as a function of problems."""

    @jax.jit
    def run(D: Any, table: Any, p: Problem) -> Array:
        own = Sampler(D, table, sampler.latent)
        return own(p.key, p.index, p.start.shape[1:], condition(p.seen, p.cond))

    return functools.partial(run, sampler.denoiser, sampler.table)


def of_particles(
    run: Callable[[Problem], Any], p: Problem, first: float, particles: int, samples: int
) -> tuple[Array, Array]:
    """Return ``samples`` of a method's particles for one measurement, and what they were worth at
    the last step, as a number of independent ones.

    p: its key is the measurement's own; its start and numbers are not used.
    """
    shape = p.seen.operator.shape
    given = Problem(
        p.denoiser, p.seen, start(p.key, first, particles, shape), p.key, jnp.arange(particles),
        p.cond, p.data_std,
    )  # fmt: skip
    found = run(given)
    drawn = posterior.resampled(found, jax.random.fold_in(p.key, 1))
    spaced = jnp.arange(samples) * particles // samples  # copies stand side by side
    return drawn[spaced], effective_number(found.log_weights)
