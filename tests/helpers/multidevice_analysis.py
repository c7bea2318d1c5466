"""Run in a process of its own with eight simulated devices: the numbers of trajectories are the
same everywhere, and a batch need not divide.
"""

import jax

jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxdiff import analysis as A  # noqa: E402
from jaxdiff import grids, solvers  # noqa: E402
from jaxdiff.exact import GaussianMixture  # noqa: E402
from jaxdiff.sampling.sample import trajectory  # noqa: E402
from jaxdiff.sampling.trace import table  # noqa: E402
from jaxdiff.training.devices import over_batch  # noqa: E402

assert jax.device_count() == 8
random = np.random.default_rng(1)
D = GaussianMixture(
    np.ones(3) / 3, random.normal(size=(3, 4)), random.uniform(0.05, 0.3, size=(3, 4))
).denoiser
data = A.as_denoiser(A.finite_data_set(random.normal(size=(20, 4))))
steps = table(solvers.euler, grids.karras(5, zero=False))
start = 80.0 * random.normal(size=(18, 4))  # 18 rows on 8 devices: the last fills up


def numbers(frozen, batch):
    """A row's profiles, its own along the first axis."""
    D, data, steps = frozen
    path = trajectory(D, steps, batch)
    beside = A.denoising_trajectory(data, path)
    bend, spread = A.deviation(path.states), A.denoising_trajectory(D, path) - beside
    slope = A.jacobian_trace(D, batch, steps.levels[0])
    return jnp.moveaxis(bend, 1, 0), jnp.moveaxis(spread, 1, 0), slope


wanted = numbers((D, data, steps), jnp.asarray(start))
for parallel in ("jit", "pmap"):
    made = over_batch(numbers, (D, data, steps), parallel=parallel)(start)
    for got, one in zip(made, wanted, strict=True):
        np.testing.assert_allclose(got, one, rtol=1e-9, atol=1e-9, err_msg=parallel)

print("same everywhere")
