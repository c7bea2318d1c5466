"""Tables in stages: the numbers of `sample` with fewer calls of the denoiser."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.every_solver import DETERMINISTIC, STOCHASTIC, name

from jaxdiff import grids, solvers
from jaxdiff.exact import GaussianMixture
from jaxdiff.sampling.parallel import sample_in_stages, stages
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.table import pad
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.amed_plugin import amed_dpmpp
from jaxdiff.solvers.epd import epd

LEVELS = [float(s) for s in grids.karras(3)]
RATIOS = [[0.2, 0.5, 0.7], [0.3, 0.4, 0.9], [0.5, 0.5, 0.5]]
EPD = table(epd, LEVELS, ratios=RATIOS, directions=1.05, times=0.95)
START = jnp.asarray(np.random.default_rng(2).normal(size=(5, 2)) * 80.0)


def mixture(classes=False):
    random = np.random.default_rng(1)
    weights = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    means, variances = random.normal(size=(3, 2)), random.uniform(0.05, 0.3, size=(3, 2))
    return GaussianMixture(weights if classes else weights[0], means, variances)


D = jax.tree_util.Partial(mixture().denoiser)


class Calls:
    """A denoiser that notes how many states of the batch each call computes."""

    def __init__(self, D=D):
        self.D, self.sizes = D, []

    def __call__(self, y, s, cond=None):
        assert y.shape == START.shape and s.shape == ()  # the batch as it was given

        @jax.custom_batching.custom_vmap
        def noted(y, s):
            return self.D(y, s, cond)

        @noted.def_vmap
        def together(size, batched, y, s):
            self.sizes.append(size)
            return jax.vmap(self.D)(y, s), True

        return noted(y, s)


@functools.partial(jax.jit, static_argnames="sizes")
def in_stages(made, y, sizes, noise):
    return sample_in_stages(D, made, y, stages=sizes, **noise)


def check_stages(made, noise):
    sizes = stages(made)
    assert sum(sizes) == made.nfe
    found = in_stages(made, START, sizes, noise)
    np.testing.assert_allclose(found, sample(D, made, START, **noise), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        pytest.param(*known, marks=[] if number % 8 == 0 else pytest.mark.slow)
        for number, known in enumerate(DETERMINISTIC + STOCHASTIC)
    ],
    ids=name,
)
def test_same_numbers_for_every_solver(solver, options, rng):
    """Most have one evaluation in a stage, and run the same code as those that have several."""
    made = table(solver, LEVELS, **options)
    noise = jnp.asarray(rng.normal(size=(len(made.draws), *START.shape)))
    check_stages(made, {"noise": noise} if made.stochastic else {})


@pytest.mark.parametrize(
    ("solver", "options"), [(solvers.ddim, {"eta": 1.0}), (solvers.churn, {"amount": 10.0})]
)
def test_noise_of_a_key_belongs_to_the_sample(solver, options, key):
    index = jnp.array([7, 1, 2, 3, 9])
    check_stages(table(solver, LEVELS, **options), {"key": key, "index": index})


@pytest.mark.parametrize("first", [None, solvers.steps.unit_first])
@pytest.mark.parametrize("order", [1, 4])
def test_epd_makes_its_intermediate_states_at_once(first, order):
    made = table(epd, LEVELS, ratios=RATIOS, order=order, first=first)
    sizes = (1, 3, 1, 3, 1)[first is not None :]
    assert stages(made) == sizes
    denoiser = Calls()
    got = sample_in_stages(denoiser, made, START)
    assert tuple(denoiser.sizes) == sizes
    np.testing.assert_allclose(got, sample(D, made, START), rtol=1e-11, atol=1e-11)


def test_stages_are_those_of_the_weights():
    """Solvers whose every evaluation needs the one before it have as many stages."""
    assert stages(table(solvers.euler, LEVELS)) == (1, 1, 1)
    assert stages(table(amed_dpmpp, LEVELS)) == (1, 1, 1, 1, 1)


def test_a_group_never_holds_what_it_uses_and_could_not_be_larger():
    """On random patterns of weights, by brute force."""
    random = np.random.default_rng(0)
    for _ in range(200):
        n, rows, window = random.integers(1, 9), random.integers(1, 3), random.integers(1, 4)
        weights = random.normal(size=(n + 1, rows, window))
        weights *= random.random(weights.shape) < 0.2
        made = dataclasses.replace(EPD, nodes=np.ones(n), denoised=weights)
        used = [[m - 1 - k for k in np.nonzero(weights[m])[1] if m - 1 - k >= 0] for m in range(n)]
        ends = np.cumsum(stages(made))
        begins = [0, *ends[:-1]]
        assert ends[-1] == n
        for begin, end in zip(begins, ends, strict=True):
            assert all(u < begin for m in range(begin, end) for u in used[m])
            assert end == n or any(u >= begin for u in used[end])


@pytest.mark.slow
def test_noise_within_a_stage(key):
    """Evaluations of one stage that draw: a solver that averages over noisy neighbours."""

    def neighbours(D, y, levels, noise):
        for s, r in zip(levels, levels[1:], strict=False):
            intermediate = [y + 0.1 * s * noise() for _ in range(2)]
            outputs = [D(z, s) for z in intermediate]
            y = (r / s) * y + ((1 - r / s) / 2) * sum(outputs) + 0.2 * r * noise()
            yield y

    made = table(neighbours, LEVELS)
    assert stages(made) == (2, 2, 2)
    index = jnp.array([7, 1, 2, 3, 9])
    got = sample_in_stages(D, made, START, key=key, index=index)
    expected = sample(D, made, START, key=key, index=index)
    np.testing.assert_allclose(got, expected, rtol=1e-11)
    noise = jnp.asarray(np.random.default_rng(5).normal(size=(len(made.draws), 5, 2)))
    got = sample_in_stages(D, made, START, noise=noise)
    np.testing.assert_allclose(got, sample(D, made, START, noise=noise), rtol=1e-11)


def test_every_state_of_a_stage_keeps_its_condition():
    classes, labels = jax.tree_util.Partial(mixture(True).denoiser), jnp.array([0, 1, 1, 0, 1])
    got = sample_in_stages(classes, EPD, START, labels)
    np.testing.assert_allclose(got, sample(classes, EPD, START, labels), rtol=1e-11, atol=1e-11)
    assert not np.allclose(got, sample(classes, EPD, START, 1 - labels))


def test_jumps_have_their_targets():
    jump = jax.tree_util.Partial(_jump)
    made = table(solvers.jump, LEVELS)
    got = sample_in_stages(jump, made, START)
    np.testing.assert_allclose(got, sample(jump, made, START), rtol=1e-11)


def _jump(y, s, cond=None, *, target):
    given = jnp.broadcast_to(jnp.cos(s) + target**2, y.shape[:1])
    return 0.1 * jnp.tanh(y) * given[:, None]


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_traced_and_differentiable_in_the_table(remat):
    """With stages given, a table may be made inside: gradients are those through `sample`."""

    def error(run, ratios):
        made = table(epd, LEVELS, ratios=ratios)
        return jnp.sum(run(D, made, START) ** 2)

    def staged(*arguments):
        return sample_in_stages(*arguments, stages=(1, 3, 1, 3, 1), remat=remat)

    ratios = jnp.asarray(RATIOS)
    value, gradient = jax.jit(jax.value_and_grad(lambda a: error(staged, a)))(ratios)
    plain, expected = jax.jit(jax.value_and_grad(lambda a: error(sample, a)))(ratios)
    np.testing.assert_allclose(value, plain, rtol=1e-11)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-9)
    assert np.abs(gradient[0]).min() > 0


def test_remat_recomputes():
    """Only what enters a stage is kept: of the denoiser's own intermediates nothing."""
    text = {}
    for remat in (False, True):
        run = lambda y, remat=remat: jnp.sum(sample_in_stages(D, EPD, y, remat=remat) ** 2)  # noqa: E731
        text[remat] = str(jax.make_jaxpr(jax.grad(run))(START))
    assert text[True].count("exp ") > text[False].count("exp ")


def test_errors(key):
    for bad in ((1, 3, 1), (0, 4, 1, 3, 1), (), (1, 3, 1, 3, 2)):
        with pytest.raises(ValueError, match="add up to 9 evaluations"):
            sample_in_stages(D, EPD, START, stages=bad)
    with pytest.raises(ValueError, match="evaluation 1 needs the output of evaluation 0"):
        sample_in_stages(D, EPD, START, stages=(4, 1, 3, 1))
    with pytest.raises(ValueError, match="padded"):
        sample_in_stages(D, pad([EPD])[0], START)
    with pytest.raises(TypeError, match="traced"):
        jax.eval_shape(lambda t: sample_in_stages(D, t, START), EPD)
    with pytest.raises(ValueError, match="draws noise"):
        sample_in_stages(D, table(solvers.ddpm, LEVELS), START)
    with pytest.raises(TypeError, match="float32 or float64"):
        sample_in_stages(D, EPD, START.astype(jnp.float16))
