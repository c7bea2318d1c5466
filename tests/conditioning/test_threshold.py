"""Thresholding: golden numbers, the paper's definition in NumPy, and what it must leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import load, teacher

from jaxdiff import exact, grids, solvers
from jaxdiff.conditioning import threshold
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.trace import table


def identity(y, level, cond=None):
    return y


def in_numpy(output, quantile=0.995, bound=1.0):
    size = np.abs(output.reshape(len(output), -1))
    width = np.maximum(np.quantile(size, quantile, axis=1), bound)
    width = width.reshape((-1,) + (1,) * (output.ndim - 1))
    return np.clip(output, -width, width) * (bound / width)


def test_golden_function():
    numbers = load("solvers_diffsampler")
    x, y = numbers["dynthr/x"], numbers["dynthr/y"]
    got = threshold.dynamic(identity)(jnp.asarray(x), 1.0)
    np.testing.assert_allclose(got, y, rtol=1e-12, atol=1e-12)


def test_golden_samplers():
    """Whole trajectories of DPM-Solver++ and UniPC, thresholded at every evaluation."""
    numbers = load("solvers_diffsampler", full=True)
    cases = [c for c in numbers.cases if c.get("dynamic_thresholding") and c["mixture"] == "mixL"]
    assert len(cases) >= 8
    for case in cases[:: len(cases) // 4]:
        bare = teacher(case["mixture"])
        D = threshold.dynamic(lambda y, s, c=None, bare=bare: jnp.asarray(bare(np.asarray(y), s)))
        levels = [float(s) for s in numbers[case["t_steps"]]]
        options = {"order": case["max_order"], "lower_final": case["lower_order_final"]}
        options |= {"variant": case["variant"]} if case["solver"] == "unipc" else {}
        solver = solvers.unipc if case["solver"] == "unipc" else solvers.dpmpp
        start = jnp.asarray(levels[0] * load("teacher")["z"])
        *_, last = solver(D, start, levels, reference=True, **options)
        np.testing.assert_allclose(last, numbers.get(case, "final"), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("quantile", "bound"), [(0.995, 1.0), (0.5, 0.3), (1.0, 2.0), (0.9, 0.1)])
def test_dynamic_is_the_papers(rng, quantile, bound):
    y = rng.normal(size=(4, 3, 2)) * np.array([0.1, 0.5, 2.0, 9.0]).reshape(4, 1, 1)
    got = threshold.dynamic(identity, quantile, bound)(jnp.asarray(y), 1.0)
    np.testing.assert_allclose(got, in_numpy(y, quantile, bound), rtol=1e-12)
    assert np.abs(got).max() <= bound * (1 + 1e-12)


def test_static_clips():
    y = jnp.asarray([[-3.0, -0.2, 0.4], [0.1, 0.6, 7.0]])
    got = threshold.static(identity, -1.0, 0.5)(y, 1.0)
    np.testing.assert_array_equal(got, [[-1.0, -0.2, 0.4], [0.1, 0.5, 0.5]])


def test_outputs_within_the_bound_are_left_as_they_are(rng):
    y = jnp.asarray(rng.uniform(-1, 1, (5, 4)))
    for make in (threshold.static, threshold.dynamic):
        np.testing.assert_array_equal(make(identity)(y, 1.0), y)


def test_a_sample_does_not_depend_on_its_neighbours(rng):
    y = jnp.asarray(rng.normal(size=(6, 4)) * 3)
    D = threshold.dynamic(identity)
    np.testing.assert_allclose(D(y, 1.0)[2:3], D(y[2:3], 1.0), rtol=1e-15)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_dtype_of_the_output_is_kept(rng, dtype):
    y = jnp.asarray(rng.normal(size=(3, 8)) * 3, dtype)
    for make in (threshold.static, threshold.dynamic):
        assert make(identity)(y, 1.0).dtype == dtype
    wide = threshold.dynamic(identity)(y.astype(jnp.float64), 1.0)
    error = np.abs(np.asarray(threshold.dynamic(identity)(y, 1.0), float) - np.asarray(wide)).max()
    assert error <= jnp.finfo(dtype).eps


def test_compiled_sampling_stays_in_range_and_has_gradients():
    """On a mixture wider than the bound; the thresholds are arguments of the compiled program."""
    means = jnp.array([[3.0, 0.0], [-3.0, 1.0]])
    truth = exact.GaussianMixture(jnp.array([0.4, 0.6]), means, jnp.full(2, 0.1))
    t = table(solvers.euler, grids.karras(3))
    start = 80 * jax.random.normal(jax.random.key(0), (5, 2))

    def spread(bound):
        x = sample(threshold.dynamic(truth.denoiser, bound=bound), t, start)
        return jnp.sum(x**2), jnp.abs(x).max()

    compiled = jax.jit(jax.value_and_grad(spread, has_aux=True))
    (_, largest), slope = compiled(1.5)
    assert 1.4 < largest <= 1.5 + 1e-12
    (more, _), _ = compiled(1.5 + 1e-6)
    (less, _), _ = compiled(1.5 - 1e-6)
    np.testing.assert_allclose(slope, (more - less) / 2e-6, rtol=1e-6)


def test_what_it_is_given_is_checked():
    for quantile in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="quantile must be in"):
            threshold.dynamic(identity, quantile)
    with pytest.raises(ValueError, match="bound must be positive"):
        threshold.dynamic(identity, bound=0.0)
    with pytest.raises(ValueError, match="low < high"):
        threshold.static(identity, 1.0, -1.0)
    with pytest.raises(TypeError, match="a denoiser is a function"):
        threshold.dynamic(3)
