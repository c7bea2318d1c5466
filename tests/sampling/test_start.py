"""Starts at the noise of their level, and what records say of themselves."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.app.models import Model
from jaxdiff.method import Method
from jaxdiff.noise import index_of, sample_numbers
from jaxdiff.sampling import checks
from jaxdiff.sampling.start import warn_unscaled
from jaxdiff.training.step import State

TRUTH = jd.exact.Gaussian(np.zeros(2), np.ones(2))
TABLE = jd.table(jd.solvers.euler, jd.grids.karras(2))
NOISE = jd.start_noise(jax.random.key(0), 16, (2,))
KNOWN = jd.operators.mask(np.array([1, 0]))


def test_a_start_is_its_level_times_the_samples_noise(key):
    expected = 80.0 * jd.start_noise(key, jnp.array([3, 1]), (2,))
    for levels in (TABLE, TABLE.levels, [80.0, 1.0], 80.0):
        np.testing.assert_allclose(jd.start(key, levels, [3, 1], (2,)), expected, rtol=1e-6)
    assert jd.start(key, TABLE, 3, (2,), jnp.float64).dtype == jnp.float64
    with pytest.raises(ValueError, match="at least one sample, not -3"):
        jd.start(key, TABLE, -3, (2,))
    with pytest.raises(ValueError, match="no first level"):
        jd.start(key, jd.pad([TABLE])[0], 3, (2,))


def test_numbers_of_samples_are_whole(key):
    """0.5 would be sample 0, and 2^32 sample 0 again."""
    for index in (jnp.array([0.5, 1.5]), jnp.array([True, False])):
        with pytest.raises(TypeError, match="numbered by integers, not by (float|bool)"):
            index_of(NOISE[:2], index)
        with pytest.raises(TypeError, match="numbered by integers"):
            sample_numbers(index)
    for run in (  # noise of sample 5 would be that of every one
        lambda index: index_of(NOISE, index),
        lambda index: jd.dequantise(jnp.zeros((2, 3), jnp.uint8), key, index),
        lambda index: jd.operators.measure(KNOWN, NOISE[:2], 0.1, key, index),
    ):
        with pytest.raises(ValueError, match="index must name each of the"):
            run(jnp.array([5]))
    with pytest.raises(ValueError, match=r"measure takes a batch of samples, \(batch"):
        jd.operators.measure(KNOWN, NOISE[0], 0.1, key)  # its rows are no samples
    with pytest.raises(ValueError, match="not all 0"):
        jd.operators.grey((2, 2, 3), (0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="32 bits; got 0 to 4294967296"):
        sample_numbers([0, 2**32])
    for shape in ((-1,), (2.5,)):
        with pytest.raises(ValueError, match="shape is that of one sample"):
            jd.start_noise(key, 2, shape)
    for level in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="level must be finite and not negative"):
            jd.start(key, level, 2, (2,))
    for dimension in (0, -3):
        with pytest.raises(ValueError, match="dimension is how many numbers"):
            jd.bits_per_dimension(jnp.zeros(2), dimension)
    with pytest.raises(ValueError, match="spacing must be positive"):
        jd.bits_per_dimension(jnp.zeros(2), 3, spacing=0.0)


@pytest.mark.parametrize(
    "run",
    [
        lambda y: jd.sample(TRUTH.denoiser, TABLE, y),
        lambda y: jd.picard(TRUTH.denoiser, TABLE, y),
        lambda y: jd.direct(TRUTH.denoiser, jd.solvers.euler, jd.grids.karras(2), y),
    ],
)
def test_an_unscaled_start_is_said(run):
    """Where it was called, with the remedy; the scaled one, in the other runs here, is silent."""
    with pytest.warns(UserWarning, match=r"level is 80.*jaxdiff.start") as said:
        run(NOISE)
    assert [one.filename for one in said] == [__file__]
    run(80.0 * NOISE)


def test_a_level_that_a_network_s_process_does_not_have_is_said():
    """Also of one that is guided; not of levels within, of another process, or of EDM's."""
    network = lambda params, x, label, cond=None: 0.0 * x  # noqa: E731
    process = jd.process.Discrete.from_betas(jd.process.scaled_linear_betas(1000))
    D = jd.denoiser(network, {}, prediction="eps", process=process)
    whole, within = TABLE, jd.table(jd.solvers.euler, jd.grids.karras(2, high=14.6))
    levels = jd.grids.karras(2)
    for run in (
        lambda y: jd.sample(D, whole, y),
        lambda y: jd.sample(jd.guidance.classifier_free(D, 2.0), whole, y),
        lambda y: jd.direct(D, jd.solvers.euler, levels, y),
    ):
        with pytest.warns(UserWarning, match=r"level is 80.*\(Discrete\) ends at 14\.61") as said:
            run(80.0 * NOISE)
        assert [one.filename for one in said] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jd.sample(D, within, 14.6 * NOISE)
        jax.eval_shape(lambda y: jd.sample(D, whole, y), 80.0 * NOISE)
        for prediction, other in (("eps", jd.process.VP()), ("flow", jd.process.RectifiedFlow())):
            made = jd.denoiser(network, {}, prediction=prediction, process=other)
            checks.warn_beyond(made, 80.0)
        checks.warn_beyond(jd.denoiser(network, {}), 200.0)


def test_legitimate_starts_are_silent(rng):
    """Ten thousand small batches, other levels, partial noise, less noise, none, traced."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in (1, 2, 4, 16, 256):
            for level in (3.5, 14.6, 80.0, 1000.0):
                for noise in rng.normal(size=(500, 1, size)):
                    warn_unscaled(level * noise, level)
        noise = rng.normal(size=(4, 100))
        for start, level in (
            (noise, 1.0), (noise, 0.002), (0.5 * 80 * noise, 80.0), (0 * noise, 80.0),
            (1 + 5.0 * noise, 5.0),
        ):  # fmt: skip
            warn_unscaled(start, level)
        jax.eval_shape(lambda y: jd.sample(TRUTH.denoiser, TABLE, y), NOISE)


def test_records_are_one_short_line():
    params = {"a": jnp.zeros((300, 40)), "b": jnp.zeros(5)}
    D = jd.denoiser(lambda p, x, label, cond: x, params)
    nothing = lambda *_: None  # noqa: E731
    records = [
        jd.Sampler(D, TABLE),
        jd.trajectory(TRUTH.denoiser, TABLE, 80.0 * NOISE),
        jd.exact.Empirical(np.zeros((500, 3))),
        Model(D, params, (8, 8, 1), 0, False, {}),
        State(jnp.int32(3), params, params, {}, jax.random.key(0), jnp.int32(0)),
        jd.distill.Student(nothing, params),
        Method(nothing, {}, nothing, D),
    ]
    for record in records:
        text = repr(record)
        assert text.startswith(type(record).__name__) and len(text) <= 300 and "\n" not in text
    assert "2 arrays, 12,005 numbers" in repr(records[4])
    assert "step=3" in repr(records[4])
    assert "states=float32[3, 16, 2]" in repr(records[1])
    assert repr(jd.process.VP()) == "VP(beta_min=0.1, beta_max=20.0)"
    assert "float64[500, 3]" in repr(jax.eval_shape(lambda m: m, records[2]))
