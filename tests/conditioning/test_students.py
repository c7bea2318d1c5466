"""Guidance of students, functions to the end of the flow, where it is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff import operators as ops
from jaxdiff import posterior

VARIANCE, LEVEL = 0.5, 10.0
MEANS = jnp.asarray([[1.0, -0.5], [0.2, 0.4]])


def student(y, level, cond=None):
    """The end of the flow of N(m, v I), where m is 0 without a class."""
    mean = 0.0 if cond is None else MEANS[cond]
    share = jnp.sqrt(VARIANCE / (VARIANCE + jnp.reshape(level, (-1, 1)) ** 2))
    return mean + share * (y - mean)


def test_guidance_of_a_consistency_function_is_the_guided_flow_where_variances_are_one(rng):
    """And the flow is what many steps give."""
    classes, weight = jnp.asarray([0, 1, 1]), 3.0
    start = jnp.asarray(LEVEL * rng.standard_normal((3, 2)))

    def D(y, level, cond=None):
        mean, s2 = 0.0 if cond is None else MEANS[cond], jnp.reshape(level, (-1, 1)) ** 2
        return mean + VARIANCE / (VARIANCE + s2) * (y - mean)

    table = jd.table(jd.solvers.heun, jd.grids.karras(200, 1e-3, LEVEL))
    flow = jd.sample(jd.guidance.classifier_free(D, weight), table, start, classes)
    once = jd.guidance.classifier_free(student, weight)(start, LEVEL, classes)
    np.testing.assert_allclose(once, flow, atol=2e-4)


def test_pseudo_inverse_guidance_of_a_consistency_function_overshoots_by_its_derivative(rng):
    """By sqrt(1 + s^2/v), as its derivative is no covariance; without it nothing is too long."""
    A = ops.matrix(rng.standard_normal((1, 2)))
    seen = ops.Measurement(A, jnp.asarray([1.5]), 1e-3)
    y, s = jnp.asarray(LEVEL * rng.standard_normal((3, 2))), jnp.asarray(LEVEL)
    found = student(y, s)
    made = [
        jax.jit(posterior.pigdm(student, seen, VARIANCE**0.5, jacobian=jacobian))(y, s)
        for jacobian in (False, True)
    ]
    np.testing.assert_allclose(A.apply(made[0]), 1.5, atol=1e-4)
    length = np.sqrt(1 + LEVEL**2 / VARIANCE)
    np.testing.assert_allclose(made[1] - found, length * (made[0] - found), rtol=1e-9)
