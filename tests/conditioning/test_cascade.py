"""Cascades: exact stages make exact samples at any level of augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import grids, solvers
from jaxdiff.conditioning import operators as ops
from jaxdiff.conditioning.cascade import CascadeStage, cascade
from jaxdiff.exact import Gaussian
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table

MEAN = np.array([0.5, -0.2, 0.1, 0.3])
COV = 0.3 * 0.7 ** np.abs(np.arange(4)[:, None] - np.arange(4))
SMALL = ops.average((4,), 2)
A = np.kron(np.eye(2), np.full((1, 2), 0.5))
SHOWN = 0.4  # the level that the second stage's exact denoiser is of


PRECISION = np.linalg.inv(COV) + A.T @ A / SHOWN**2
VALUES, AXES = np.linalg.eigh(np.linalg.inv(PRECISION))


def second(y, level, cond=None):
    """The exact E[x | y, u] for u of noise SHOWN, moved by the class that the cascade is given."""
    like = lambda a: jnp.asarray(a, y.dtype)  # noqa: E731
    u = cond["beside"][:, :4] @ like(A.T)  # A A^+ u
    natural = like(np.linalg.inv(COV) @ MEAN)[None] + u @ like(A / SHOWN**2)
    mean = natural @ like(np.linalg.inv(PRECISION)) + 10 * cond["classes"][:, None]
    shrink = like(VALUES) / (like(VALUES) + level**2)
    moved = ((y - mean) @ like(AXES)) * shrink[None]
    return mean + moved @ like(AXES.T)


def stages(noise, bounds=None):
    made = table(solvers.heun, grids.karras(32, 0.01, 20.0))
    small = Gaussian(A @ MEAN, A @ COV @ A.T).denoiser
    plain = lambda y, level, cond=None: small(y, level)  # noqa: E731
    first = CascadeStage(Sampler(plain, made), (2,), bounds=bounds)
    return [first, CascadeStage(Sampler(second, made), (4,), SMALL, noise)]


def test_exact_stages_make_exact_samples_and_other_noise_does_not():
    count = 10_000
    error = lambda x: np.abs(np.cov(np.asarray(x).T) - COV).max() / COV.max()  # noqa: E731
    run = jax.jit(lambda key, noise: _run(noise, key, count), static_argnums=1)
    small, large = run(jax.random.key(0), SHOWN)
    np.testing.assert_allclose(np.mean(large, axis=0), MEAN, atol=0.02)
    assert error(large) < 0.04
    np.testing.assert_allclose(np.cov(np.asarray(small).T), A @ COV @ A.T, atol=0.01)
    assert error(run(jax.random.key(0), 0.0)[1]) > 0.1


def _run(noise, key, count):
    zeros = jnp.zeros(count, jnp.float32)
    return cascade(stages(noise)).every(key, count, {"classes": zeros})


@pytest.mark.slow
def test_samples_belong_to_their_numbers_and_are_given_the_condition():
    made = cascade(stages(0.4, bounds=(-0.1, 0.1)))
    key, classes = jax.random.key(1), jnp.arange(3.0, dtype=jnp.float32)
    small, large = jax.jit(lambda c: made.every(key, 3, c))(classes)
    assert np.abs(small).max() <= np.float32(0.1)
    assert (np.round(np.mean(large, axis=1) / 10) == classes).all()
    one = jax.jit(lambda i, c: made(key, i, c))(jnp.array([2]), classes[2:])
    np.testing.assert_allclose(one[0], large[2], atol=1e-4)


def test_stages_that_do_not_go_together_are_refused_by_name():
    first, last = stages(0.1)
    for wrong, text in (
        ([], "begins with"),
        ([last], "begins with a stage that has no operator"),
        ([first, first], "stage 1 has no operator"),
        ([first, last, last], r"stage 2 sees \(2,\) of \(4,\)"),
        ([first, last._replace(noise=-1.0)], "not -1.0"),
    ):
        with pytest.raises(ValueError, match=text):
            cascade(wrong)
