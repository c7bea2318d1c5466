"""Updates that end on a surface."""

import jax
import numpy as np
import optax
import pytest

from jaxdiff.networks.magnitude import unit_filters
from jaxdiff.training.projection import projected


def test_updates_end_where_they_are_projected(rng):
    """On filters of unit magnitude, also where the gradient is 0; the rest is the optimiser's."""
    params = {"kernel": 3 * rng.standard_normal((4, 2)), "gain": rng.standard_normal(())}
    gradient = {"kernel": rng.standard_normal((4, 2)), "gain": np.float64(2.0)}
    optimiser = projected(optax.sgd(0.1), unit_filters)

    @jax.jit
    def step(params, gradient):
        updates, _ = optimiser.update(gradient, optimiser.init(params), params)
        return optax.apply_updates(params, updates)

    moved = params["kernel"] - 0.1 * gradient["kernel"]
    made = step(params, gradient)
    size = np.sqrt(np.mean(moved**2, axis=0)) + 1e-4
    np.testing.assert_allclose(made["kernel"], moved / size, rtol=1e-12)
    np.testing.assert_allclose(made["gain"], params["gain"] - 0.2, rtol=1e-12)
    still = step(params, jax.tree.map(np.zeros_like, gradient))
    np.testing.assert_allclose(still["kernel"], unit_filters(params)["kernel"], rtol=1e-12)
    with pytest.raises(ValueError, match="needs the parameters"):
        optimiser.update(gradient, optimiser.init(params))
